"""Objects of declared buckets, by the names that people use: project, bucket, key."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

from falaj.engines.interface import ObjectInfo, ObjectStore, S3Credentials
from falaj.errors import Conflict, Invalid, LimitExceeded, NotFound, Transient, nearest
from falaj.region.database import Database
from falaj.region.resource import SYSTEM_PROJECT, Key, Resource
from falaj.region.snapshot import Snapshot
from falaj.services.storage.kinds import BUCKET


def s3_bucket(project: str, name: str) -> str:
    """What a declared bucket is called on the S3 wire."""
    return f"{project}.{name}"


#: Names in the project ``system`` that Falaj keeps for itself; they cannot be declared.
RESERVED_BUCKETS = frozenset({"index", "knowledge"})
#: Where indexes of knowledge bases lie.
INDEX_BUCKET = s3_bucket(SYSTEM_PROJECT, "index")
#: Where the extracted texts of documents lie, which spans of citations index.
TEXTS_BUCKET = s3_bucket(SYSTEM_PROJECT, "knowledge")

KEY_BYTES_MAX = 1024
#: Control characters, and the half characters that broken clients send.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Objects:
    """Reads and writes objects of declared buckets.

    Args:
        changed: told the key of a bucket whose objects changed, so that what reads it can look at once.
    """

    def __init__(
        self,
        object_store: ObjectStore,
        snapshot: Snapshot,
        database: Database,
        *,
        changed: Callable[[Key], Awaitable[None]] | None = None,
    ) -> None:
        self._store = object_store
        self._snapshot = snapshot
        self._database = database
        self._changed = changed

    async def put(self, project: str, bucket: str, key: str, content: bytes, content_type: str) -> ObjectInfo:
        """Store an object, durably.

        Raises:
            NotFound: no such bucket. Invalid: not a key. Conflict: the bucket is being deleted.
            LimitExceeded: the bucket's ``size_bytes_max`` or the disk is full. Transient: the store is away.
        """
        resource = self._bucket(project, bucket)
        check_key(key)
        if resource.deleting:
            raise Conflict(
                f"the bucket {bucket!r} is being deleted", where=str(resource.key), hint="use another bucket"
            )
        name = s3_bucket(project, bucket)
        await self._check_room(resource, key, len(content))
        try:
            await self._store.put(name, key, content, content_type=content_type or "application/octet-stream")
        except NotFound as error:
            raise _not_there_yet(resource) from error
        info = await self._store.observe_object(name, key)
        if info is None:
            raise Conflict("the object was removed by someone else at the same time", where=f"{bucket}/{key}")
        await self._tell(resource.key)
        return info

    async def get(self, project: str, bucket: str, key: str) -> bytes:
        """The object's bytes.

        Raises:
            NotFound: no such bucket or key. Transient: the store is away.
        """
        resource = self._bucket(project, bucket)
        check_key(key)
        try:
            return await self._store.get(s3_bucket(project, bucket), key)
        except NotFound as error:
            raise NotFound(
                f"there is no object {key!r}",
                where=str(resource.key),
                hint=f"see `falaj objects ls {bucket} --project {project}`",
            ) from error

    async def delete(self, project: str, bucket: str, key: str) -> None:
        """Remove an object; a missing one is no error.

        Raises:
            NotFound: no such bucket. Transient: the store is away.
        """
        resource = self._bucket(project, bucket)
        check_key(key)
        try:
            await self._store.delete(s3_bucket(project, bucket), key)
        except NotFound:
            return  # a bucket that is not made yet has no objects
        await self._tell(resource.key)

    async def list(self, project: str, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects whose keys begin with ``prefix``, in the order of their keys.

        Raises:
            NotFound: no such bucket. Transient: the store is away.
        """
        resource = self._bucket(project, bucket)
        try:
            async for info in self._store.list(s3_bucket(project, bucket), prefix):
                yield info
        except NotFound as error:
            raise _not_there_yet(resource) from error

    async def credentials(self, project: str) -> S3Credentials:
        """What an S3 client needs to reach the project's buckets.

        Raises:
            NotFound: the project has no bucket yet.
        """
        rows = await self._database.fetch(
            "SELECT access_key, secret_key FROM project_credential WHERE project = %s", project
        )
        if not rows:
            raise NotFound(
                "the project has no S3 credentials yet",
                where=f"Project/{project}",
                hint="they are made with its first bucket; declare one and wait until it is ready",
            )
        return self._store.credentials(rows[0]["access_key"], rows[0]["secret_key"])

    def _bucket(self, project: str, bucket: str) -> Resource:
        resource = self._snapshot.find(Key(BUCKET.name, project, bucket))
        if resource is None:
            names = [known.metadata.name for known in self._snapshot.list(BUCKET.name, project)]
            raise NotFound(
                f"there is no bucket {bucket[:80]!r} in the project {project!r}",
                hint=nearest(bucket, names) or "declare it first: kind Bucket",
            )
        return resource

    async def _check_room(self, resource: Resource, key: str, size_bytes: int) -> None:
        limit = resource.spec.size_bytes_max
        if limit is None:
            return
        held = 0
        async for info in self._store.list(s3_bucket(resource.key.project, resource.key.name)):
            held += info.size_bytes if info.key != key else 0
        if held + size_bytes > limit:
            raise LimitExceeded(
                f"the bucket would hold {held + size_bytes:,} bytes; its limit is {limit:,}",
                where=str(resource.key),
                hint="remove objects, or raise size_bytes_max of the bucket",
            )

    async def _tell(self, key: Key) -> None:
        if self._changed is not None:
            await self._changed(key)


def check_key(key: str) -> str:
    """Return ``key`` when it can name an object.

    Raises:
        Invalid: it cannot; the message says why.
    """
    problem = ""
    if not key:
        problem = "the key is empty"
    elif _FORBIDDEN.search(key):
        problem = "the key holds control characters"
    elif len(key.encode()) > KEY_BYTES_MAX:
        problem = f"the key is longer than {KEY_BYTES_MAX} bytes"
    elif any(part in {"", ".", ".."} for part in key.split("/")):
        problem = "the key has an empty part, '.' or '..' between slashes"
    if problem:
        raise Invalid(problem, where=f"object {key[:80]!r}", hint="a key looks like folder/file.md")
    return key


def _not_there_yet(resource: Resource) -> Transient:
    return Transient(
        f"the bucket {resource.key.name!r} is declared but not made yet",
        where=str(resource.key),
        hint="wait until it is ready",
        retry_after_seconds=1.0,
    )
