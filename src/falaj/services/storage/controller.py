"""Makes declared buckets real, and gives each project the S3 credentials to reach them: the controller of Bucket."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from falaj.engines.interface import ObjectStore
from falaj.errors import Conflict, NotFound, Terminal
from falaj.region.database import Database
from falaj.region.placement import place
from falaj.region.reconciler import Result, Work
from falaj.region.resource import SYSTEM_PROJECT, Key, Resource
from falaj.region.store import Store
from falaj.services.storage.kinds import BUCKET, BucketStatus
from falaj.services.storage.objects import RESERVED_BUCKETS, s3_bucket

#: How long one look at all buckets, or all sites, serves; a resync of a thousand buckets looks once.
_LOOK_SECONDS = 3.0
#: How long it is believed that a project has its credentials.
_GRANT_SECONDS = 300.0
#: Objects are counted only so far, to say why a bucket cannot be deleted.
_COUNTED_MAX = 1000

T = TypeVar("T")


@dataclass(slots=True)
class _Look(Generic[T]):
    """A value that many ask for at once and that is read once: kept for a while, and one reader at a time."""

    read: Callable[[], Awaitable[T]]
    value: T | None = None
    until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def get(self) -> T:
        async with self.lock:
            if self.value is None or time.monotonic() > self.until:
                self.value = await self.read()
                self.until = time.monotonic() + _LOOK_SECONDS
            return self.value


class BucketController:
    """Creates the S3 bucket ``project.name``; deletes it only when it is empty."""

    kind = BUCKET.name
    resync_seconds = 60.0

    def __init__(self, objects: ObjectStore, database: Database, store: Store) -> None:
        self._objects = objects
        self._database = database
        self._store = store
        self._buckets = _Look(self._observe)
        self._sites = _Look(lambda: store.list("Site"))
        self._granted: dict[str, float] = {}
        self._granting: dict[str, asyncio.Lock] = {}

    async def _observe(self) -> set[str]:
        return set(await self._objects.observe_buckets())

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """Move one step: credentials, bucket, status; or the deletion of an empty bucket."""
        project, name = resource.key.project, resource.key.name
        if project == SYSTEM_PROJECT and name in RESERVED_BUCKETS:
            if resource.deleting:
                return Result(gone=True)
            raise Terminal(
                f"the name {name!r} is kept for Falaj itself", where=str(resource.key), hint="choose another name"
            )
        if resource.deleting:
            return await self._delete(resource)
        site = await self._place(resource)
        await self._ensure_credentials(project)
        await self._ensure_bucket(resource)
        self._report(resource, site)
        return Result()

    async def _place(self, resource: Resource) -> str:
        """The site where the objects rest: where they are already, or where placement says.

        Raises:
            Terminal: the spec names another site than the one where the objects are.
        """
        wanted, current = resource.spec.site, resource.status.site
        if wanted and current and wanted != current:
            raise Terminal(
                f"the objects rest on site {current!r}; a bucket does not move to another",
                where=str(resource.key),
                hint=f"set site back to {current!r}, or declare a new bucket and copy the objects",
            )
        return place(await self._sites.get(), wanted or current or None)

    async def _ensure_bucket(self, resource: Resource) -> None:
        bucket = s3_bucket(resource.key.project, resource.key.name)
        existing = await self._buckets.get()
        unchanged = resource.status.ready and resource.status.observedGeneration == resource.metadata.generation
        if bucket not in existing or not unchanged:
            await self._objects.create_bucket(bucket, versioning=resource.spec.versioning)
            existing.add(bucket)

    async def _ensure_credentials(self, project: str) -> None:
        """Make the project's keys once and let them reach its buckets.

        The row comes first: killed in between, the next step grants the same keys.
        """
        if self._granted.get(project, 0.0) > time.monotonic():
            return
        async with self._granting.setdefault(project, asyncio.Lock()):
            if self._granted.get(project, 0.0) > time.monotonic():
                return
            await self._database.execute(
                "INSERT INTO project_credential (project, access_key, secret_key) VALUES (%s, %s, %s)"
                " ON CONFLICT (project) DO NOTHING",
                project,
                f"FLJ{secrets.token_hex(8).upper()}",
                secrets.token_urlsafe(30),
            )
            (row,) = await self._database.fetch(
                "SELECT access_key, secret_key FROM project_credential WHERE project = %s", project
            )
            await self._objects.grant(project, row["access_key"], row["secret_key"])
            self._granted[project] = time.monotonic() + _GRANT_SECONDS

    def _report(self, resource: Resource, site: str) -> None:
        status: BucketStatus = resource.status
        status.site = site
        status.s3_bucket = s3_bucket(resource.key.project, resource.key.name)
        status.s3_endpoint = self._objects.credentials("", "").endpoint_url
        status.set_condition("True", "Created", "the bucket takes objects")

    async def _delete(self, resource: Resource) -> Result:
        bucket = s3_bucket(resource.key.project, resource.key.name)
        held = await self._count(bucket)
        if held == 0:
            try:
                await self._objects.delete_bucket(bucket)
            except Conflict:
                held = await self._count(bucket)  # written to in this moment, or holding old versions
                if held == 0:
                    return self._not_empty(resource, "old versions of objects")
        if held:
            some = f"more than {_COUNTED_MAX:,}" if held > _COUNTED_MAX else f"{held:,}"
            return self._not_empty(resource, f"{some} object{'s' if held != 1 else ''}")
        (await self._buckets.get()).discard(bucket)
        await self._withdraw_credentials(resource.key)
        return Result(gone=True)

    async def _count(self, bucket: str) -> int:
        """How many objects the bucket holds; one more than is counted when there are more."""
        held = 0
        try:
            async for _ in self._objects.list(bucket):
                held += 1
                if held > _COUNTED_MAX:
                    break
        except NotFound:
            return 0
        return held

    @staticmethod
    def _not_empty(resource: Resource, what: str) -> Result:
        resource.status.set_condition(
            "False", "NotEmpty", f"not deleted: the bucket still holds {what}; delete them, or keep the bucket"
        )
        return Result(requeue_after_seconds=15.0)

    async def _withdraw_credentials(self, gone: Key) -> None:
        """Take the project's keys away with its last bucket."""
        left = [bucket.key for bucket in await self._store.list(BUCKET.name, project=gone.project, limit=2)]
        if any(key != gone for key in left):
            return
        await self._objects.revoke(gone.project)
        await self._database.execute("DELETE FROM project_credential WHERE project = %s", gone.project)
        self._granted.pop(gone.project, None)
