"""``ObjectStore`` of ``engines/interface.py`` on SeaweedFS: S3 by boto3, and its filer for what S3 does slowly.

Usage::

    store = SeaweedStore(seaweedfs.site_endpoint(site_dir, secrets_dir))
    await store.create_bucket("claims.policies")
    etag = await store.put("claims.policies", "a.md", b"…")       # on disk when it returns

boto3 blocks, so its calls run in a bounded pool of threads. A project's keys reach the buckets ``project.*``; a
project's name holds no dot, so ``a`` reaches neither ``a-b.…`` nor ``b.…``.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from functools import partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from falaj.engines.interface import ObjectInfo, S3Credentials
from falaj.engines.seaweedfs.filer import Filer
from falaj.engines.seaweedfs.process import FREE_BYTES_MIN_MB, REGION, Endpoint
from falaj.errors import Conflict, Denied, FalajError, Invalid, LimitExceeded, NotFound, Transient

T = TypeVar("T")

CONNECTIONS_MAX = 16
PAGE_KEYS = 1000
#: How long S3 may take to hear of new keys.
GRANT_SECONDS_MAX = 5.0
#: Below this much free space SeaweedFS refuses to write; a little above it a failed write still means a full disk.
FULL_DISK_BYTES = (FREE_BYTES_MIN_MB + 16) << 20

_PROJECT = re.compile(r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")
_KEY = re.compile(r"^[A-Za-z0-9_-]{8,128}$")
_ACTIONS = ("Read", "Write", "List", "Tagging")

_ERRORS: dict[str, type[FalajError]] = {
    "NoSuchBucket": NotFound,
    "NoSuchKey": NotFound,
    "NoSuchVersion": NotFound,
    "NotFound": NotFound,
    "404": NotFound,
    "BucketNotEmpty": Conflict,
    "BucketAlreadyExists": Conflict,
    "OperationAborted": Conflict,
    "PreconditionFailed": Conflict,
    "AccessDenied": Denied,
    "403": Denied,
    "InvalidAccessKeyId": Denied,
    "SignatureDoesNotMatch": Denied,
    "InvalidBucketName": Invalid,
    "InvalidArgument": Invalid,
    "InvalidRequest": Invalid,
    "KeyTooLongError": Invalid,
    "EntityTooLarge": LimitExceeded,
}


class SeaweedStore:
    """The objects of the site's SeaweedFS, seen with the administrator's keys."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._filer = Filer(endpoint)
        self._pool = ThreadPoolExecutor(CONNECTIONS_MAX, thread_name_prefix="s3")
        self._s3 = self._client(endpoint.admin.access_key, endpoint.admin.secret_key)

    def _client(self, access_key: str, secret_key: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self._endpoint.s3_url,
            region_name=REGION,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(
                connect_timeout=3,
                read_timeout=60,
                max_pool_connections=CONNECTIONS_MAX,
                retries={"mode": "standard", "total_max_attempts": 3},
                s3={"addressing_style": "path"},
                proxies={},  # the store is this machine's; a proxy in the environment is for the world outside
            ),
        )

    async def close(self) -> None:
        """Let go of threads and connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._s3.close()

    async def observe_buckets(self) -> frozenset[str]:
        """The names of all buckets; one listing of the filer (a thousand names: about 20 ms, S3 takes 300)."""
        return await self._call(lambda: frozenset(self._filer.buckets()), "the buckets")

    async def create_bucket(self, bucket: str, *, versioning: bool = False) -> None:
        """Make the bucket; an existing one is brought to the asked versioning state."""
        await self._call(lambda: self._create_bucket(bucket, versioning), bucket)

    def _create_bucket(self, bucket: str, versioning: bool) -> None:
        try:
            self._s3.create_bucket(Bucket=bucket)
            enabled = False
        except ClientError as error:
            if _code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise
            enabled = self._s3.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled"
        if versioning != enabled:
            status = "Enabled" if versioning else "Suspended"
            self._s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})

    async def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket; a missing one is no error.

        Raises:
            Conflict: it still holds objects.
        """
        try:
            await self._call(lambda: self._s3.delete_bucket(Bucket=bucket), bucket)
        except NotFound:
            return

    async def observe_object(self, bucket: str, key: str) -> ObjectInfo | None:
        """The object, or None."""
        try:
            head = await self._call(lambda: self._s3.head_object(Bucket=bucket, Key=key), f"{bucket}/{key}")
        except NotFound:
            return None
        return ObjectInfo(key, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"].astimezone(UTC))

    async def put(
        self, bucket: str, key: str, content: bytes, *, content_type: str = "application/octet-stream"
    ) -> str:
        """Store the object, durably, and return its ETag.

        Raises:
            NotFound: no such bucket. LimitExceeded: the disk is full. Transient: the store is away.
        """
        put = partial(self._s3.put_object, Bucket=bucket, Key=key, Body=content, ContentType=content_type)
        try:
            answer = await self._call(put, f"{bucket}/{key}")
        except Transient as error:
            # SeaweedFS says "internal error" for a full disk as for anything else.
            if self._disk_is_full(len(content)):
                raise LimitExceeded(
                    "the disk that holds the objects is full",
                    where=str(self._endpoint.volumes_dir),
                    hint="free some space, or delete objects",
                ) from error
            raise
        return str(answer["ETag"]).strip('"')

    def _disk_is_full(self, size_bytes: int) -> bool:
        try:
            return shutil.disk_usage(self._endpoint.volumes_dir).free < FULL_DISK_BYTES + size_bytes
        except OSError:
            return False

    async def get(self, bucket: str, key: str, *, size_bytes_max: int | None = None) -> bytes:
        """The object's bytes.

        Raises:
            NotFound: no such bucket or key. LimitExceeded: larger than ``size_bytes_max``.
            Transient: the store is away.
        """
        return await self._call(lambda: self._get(bucket, key, size_bytes_max), f"{bucket}/{key}")

    def _get(self, bucket: str, key: str, size_bytes_max: int | None) -> bytes:
        answer = self._s3.get_object(Bucket=bucket, Key=key)
        with answer["Body"] as body:
            size = int(answer["ContentLength"])
            if size_bytes_max is not None and size > size_bytes_max:
                raise LimitExceeded(
                    f"the object has {size} bytes; at most {size_bytes_max} are read here", where=f"{bucket}/{key}"
                )
            return bytes(body.read())

    async def delete(self, bucket: str, key: str) -> None:
        """Remove the object; a missing one is no error."""
        try:
            await self._call(lambda: self._s3.delete_object(Bucket=bucket, Key=key), f"{bucket}/{key}")
        except NotFound:
            return

    async def list(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects under a prefix, in key order, paged from the store as they are read.

        Raises:
            NotFound: no such bucket. Transient: the store is away.
        """
        request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE_KEYS}
        while True:
            page = await self._call(partial(self._s3.list_objects_v2, **request), bucket)
            for entry in page.get("Contents", ()):
                yield ObjectInfo(
                    entry["Key"], entry["Size"], entry["ETag"].strip('"'), entry["LastModified"].astimezone(UTC)
                )
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    async def grant(self, project: str, access_key: str, secret_key: str) -> None:
        """Let these credentials read and write the buckets named ``project.*`` and nothing else. Idempotent.

        Raises:
            Invalid: the project's name or a key is malformed. Transient: the store is away.
        """
        await self._call(lambda: self._grant(_identity(project), project, access_key, secret_key), project)

    def _grant(self, identity: str, project: str, access_key: str, secret_key: str) -> None:
        if not _KEY.fullmatch(access_key) or not _KEY.fullmatch(secret_key):
            raise Invalid("an S3 key is malformed", where=project, hint="8 to 128 letters, digits, - and _")
        actions = [f"{action}:{project}.*" for action in _ACTIONS]
        if not self._filer.put_identity(identity, access_key, secret_key, actions):
            return
        # Whoever is given the keys next must find them working.
        client = self._client(access_key, secret_key)
        deadline = time.monotonic() + GRANT_SECONDS_MAX
        while time.monotonic() < deadline:
            try:
                client.list_objects_v2(Bucket=f"{project}.0", MaxKeys=1)
            except ClientError as error:
                if _code(error) in {"InvalidAccessKeyId", "SignatureDoesNotMatch"}:
                    time.sleep(0.02)
                    continue
            return
        raise Transient("S3 has not heard of the new keys yet", where=project)

    async def revoke(self, project: str) -> None:
        """Take the project's credentials away; missing ones are no error."""
        await self._call(lambda: self._filer.delete_identity(_identity(project)), project)

    def credentials(self, access_key: str, secret_key: str) -> S3Credentials:
        """What a client needs to use these keys: endpoint address and region."""
        return S3Credentials(self._endpoint.s3_url, access_key, secret_key, REGION)

    async def _call(self, blocking: Callable[[], T], what: str) -> T:
        """Run a blocking call in the pool and translate what SeaweedFS's clients raise."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, blocking)
        except ClientError as error:
            raise _translated(error, what) from error
        except ParamValidationError as error:
            raise Invalid(f"S3 cannot take this: {error}", where=what) from error
        except BotoCoreError as error:
            raise Transient(
                "the object store does not answer", where=self._endpoint.s3_url, hint="see `falaj logs seaweedfs`"
            ) from error


def _identity(project: str) -> str:
    if not _PROJECT.fullmatch(project):
        raise Invalid(f"{project[:80]!r} is not a project's name")
    return f"project-{project}"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _translated(error: ClientError, what: str) -> FalajError:
    kind = _ERRORS.get(_code(error), Transient)
    said = str(error.response.get("Error", {}).get("Message", "")) or _code(error)
    if kind is NotFound:
        said = "there is no such bucket" if _code(error) == "NoSuchBucket" else "there is no such object"
    elif kind is Conflict and _code(error) == "BucketNotEmpty":
        said = "the bucket still holds objects"
    return kind(said, where=what)
