"""What every engine behind ``ObjectStore`` must do."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from falaj.engines.interface import ObjectStore, S3Credentials
from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.errors import Conflict, Invalid, LimitExceeded, NotFound
from tests.postgres import PostgresServer
from tests.seaweed import SeaweedServer
from tests.sites import until


@pytest.fixture(scope="module", params=["seaweedfs"])
def server(postgres: PostgresServer) -> Iterator[SeaweedServer]:
    postgres.admin("CREATE DATABASE conformance_objects")
    made = SeaweedServer(postgres.url("conformance_objects"))
    try:
        made.start()
        yield made
    finally:
        made.remove()
        postgres.admin("DROP DATABASE conformance_objects WITH (FORCE)")


@pytest.fixture
async def store(server: SeaweedServer) -> AsyncIterator[ObjectStore]:
    made: SeaweedStore = server.store()
    yield made
    await made.close()


@pytest.fixture
async def bucket(store: ObjectStore) -> str:
    name = f"p-{secrets.token_hex(4)}.bucket"
    await store.create_bucket(name)
    return name


# --- buckets ---


async def test_a_bucket_is_made_seen_and_removed_each_idempotently(store: ObjectStore) -> None:
    for _ in range(2):
        await store.create_bucket("made.once")
    assert "made.once" in await store.observe_buckets()
    for _ in range(2):
        await store.delete_bucket("made.once")
    assert "made.once" not in await store.observe_buckets()


async def test_a_bucket_that_holds_objects_is_not_removed(store: ObjectStore, bucket: str) -> None:
    await store.put(bucket, "key", b"kept")
    with pytest.raises(Conflict):
        await store.delete_bucket(bucket)
    assert await store.get(bucket, "key") == b"kept"
    await store.delete(bucket, "key")
    await store.delete_bucket(bucket)


async def test_a_name_that_is_no_bucket_name_is_invalid(store: ObjectStore) -> None:
    with pytest.raises(Invalid):
        await store.create_bucket("No_Such Name")


async def test_an_existing_bucket_is_brought_to_the_asked_versioning(store: ObjectStore, server: SeaweedServer) -> None:
    admin = client(S3Credentials(server.endpoint.s3_url, *_admin(server)))

    def state() -> str | None:
        return admin.get_bucket_versioning(Bucket="versions.b").get("Status")  # type: ignore[no-any-return]

    await store.create_bucket("versions.b", versioning=True)
    assert state() == "Enabled"
    await store.create_bucket("versions.b", versioning=False)
    assert state() == "Suspended"
    await store.create_bucket("versions.b", versioning=True)
    assert state() == "Enabled"


async def test_a_thousand_buckets_are_made_in_time_and_listed_at_once(store: ObjectStore) -> None:
    """The region declares a thousand at once within a minute, and looks at all of them in three seconds."""
    limit = asyncio.Semaphore(16)

    async def make(number: int) -> None:
        async with limit:
            await store.create_bucket(f"many.b{number:04d}")

    started_at = time.monotonic()
    await asyncio.gather(*(make(number) for number in range(1000)))
    assert time.monotonic() - started_at < 60
    started_at = time.monotonic()
    seen = await store.observe_buckets()
    assert time.monotonic() - started_at < 1
    assert {f"many.b{number:04d}" for number in range(1000)} <= seen


# --- objects ---


@pytest.mark.parametrize("content", [b"", b"small", secrets.token_bytes(5 << 20)], ids=["empty", "small", "5 MB"])
async def test_what_was_put_is_got(store: ObjectStore, bucket: str, content: bytes) -> None:
    etag = await store.put(bucket, "key", content)
    assert etag == hashlib.md5(content).hexdigest()
    assert await store.get(bucket, "key") == content
    info = await store.observe_object(bucket, "key")
    assert info is not None
    assert (info.key, info.size_bytes, info.etag) == ("key", len(content), etag)
    assert abs((info.modified_at - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize("key", ["a/b/c.txt", "مرحبا/وثيقة.md", "with space + plus & %20?.pdf", "é" * 100, "..dots"])
async def test_any_key_works(store: ObjectStore, bucket: str, key: str) -> None:
    await store.put(bucket, key, b"content")
    assert await store.get(bucket, key) == b"content"
    assert [info.key async for info in store.list(bucket)] == [key]
    await store.delete(bucket, key)
    assert await store.observe_object(bucket, key) is None


async def test_a_put_replaces(store: ObjectStore, bucket: str) -> None:
    first = await store.put(bucket, "key", b"one")
    second = await store.put(bucket, "key", b"two")
    assert first != second
    assert await store.get(bucket, "key") == b"two"


async def test_what_is_missing_is_told(store: ObjectStore, bucket: str) -> None:
    assert await store.observe_object(bucket, "nothing") is None
    assert await store.observe_object("no-such.bucket", "nothing") is None
    for call in (
        store.get(bucket, "nothing"),
        store.get("no-such.bucket", "nothing"),
        store.put("no-such.bucket", "key", b""),
    ):
        with pytest.raises(NotFound):
            await call
    assert "no-such.bucket" not in await store.observe_buckets(), "a put made a bucket that nobody declared"
    await store.delete(bucket, "nothing")
    with pytest.raises(NotFound):
        _ = [info async for info in store.list("no-such.bucket")]


async def test_more_than_was_asked_for_is_not_read(store: ObjectStore, bucket: str) -> None:
    await store.put(bucket, "key", b"12345")
    assert await store.get(bucket, "key", size_bytes_max=5) == b"12345"
    with pytest.raises(LimitExceeded, match="5 bytes"):
        await store.get(bucket, "key", size_bytes_max=4)


async def test_a_listing_is_in_key_order_under_its_prefix_and_has_many_pages(store: ObjectStore, bucket: str) -> None:
    keys = [f"in/{number:04d}" for number in range(1100)]
    limit = asyncio.Semaphore(16)

    async def put(key: str) -> None:
        async with limit:
            await store.put(bucket, key, b"")

    await asyncio.gather(*(put(key) for key in [*keys, "out/1"]))
    assert [info.key async for info in store.list(bucket, "in/")] == keys


# --- who may do what, seen with the official client ---


def client(credentials: S3Credentials | None, url: str = "") -> Any:
    options: dict[str, Any] = {"retries": {"total_max_attempts": 1, "mode": "standard"}, "proxies": {}}
    if credentials is None:
        config = Config(signature_version=UNSIGNED, **options)
        return boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config)
    return boto3.client(
        "s3",
        endpoint_url=credentials.endpoint_url,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        region_name=credentials.region,
        config=Config(**options),
    )


def _admin(server: SeaweedServer) -> tuple[str, str]:
    return server.endpoint.admin.access_key, server.endpoint.admin.secret_key


def keys() -> tuple[str, str]:
    return f"FLJ{secrets.token_hex(8).upper()}", secrets.token_hex(32)


def code_of(call: Any, **arguments: Any) -> str:
    """The code of the error that the call ends with; empty when it does not."""
    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def refused(call: Any, **arguments: Any) -> str:
    code = code_of(call, **arguments)
    assert code, f"{call.__name__} {arguments} was not refused"
    return code


@pytest.fixture
async def projects(store: ObjectStore) -> str:
    """Buckets of the projects a, a-b, b and ab, each with an object; the name of the first."""
    for project in ("a", "a-b", "b", "ab"):
        await store.create_bucket(f"{project}.docs")
        await store.put(f"{project}.docs", "key", b"content")
    return "a.docs"


async def test_a_project_has_its_buckets_and_no_others(store: ObjectStore, projects: str) -> None:
    pair = keys()
    await store.grant("a", *pair)
    s3 = client(store.credentials(*pair))
    s3.put_object(Bucket=projects, Key="mine", Body=b"1")
    assert s3.get_object(Bucket=projects, Key="mine")["Body"].read() == b"1"
    assert s3.list_objects_v2(Bucket=projects)["KeyCount"] == 2
    s3.delete_object(Bucket=projects, Key="mine")
    for other in ("a-b.docs", "b.docs", "ab.docs"):
        assert refused(s3.get_object, Bucket=other, Key="key") == "AccessDenied"
        assert refused(s3.put_object, Bucket=other, Key="key", Body=b"") == "AccessDenied"
        assert refused(s3.delete_object, Bucket=other, Key="key") == "AccessDenied"
        assert refused(s3.list_objects_v2, Bucket=other) == "AccessDenied"
        source = {"Bucket": other, "Key": "key"}
        assert refused(s3.copy_object, Bucket=projects, Key="stolen", CopySource=source) == "AccessDenied"
    for trick in ("../b.docs/key", "/../b.docs/key", "./../../buckets/b.docs/key"):
        assert refused(s3.get_object, Bucket=projects, Key=trick) in {"AccessDenied", "NoSuchKey", "InvalidRequest"}


async def test_a_project_does_not_list_the_buckets_of_others(store: ObjectStore, projects: str) -> None:
    pair = keys()
    await store.grant("a", *pair)
    s3 = client(store.credentials(*pair))
    assert {entry["Name"] for entry in s3.list_buckets()["Buckets"]} == {projects}


async def test_a_project_neither_makes_nor_removes_buckets_nor_opens_them(store: ObjectStore, projects: str) -> None:
    pair = keys()
    await store.grant("a", *pair)
    s3 = client(store.credentials(*pair))
    assert refused(s3.create_bucket, Bucket="a.undeclared") == "AccessDenied"
    assert refused(s3.delete_bucket, Bucket=projects) == "AccessDenied"
    assert refused(s3.put_bucket_acl, Bucket=projects, ACL="public-read") == "AccessDenied"
    policy = '{"Version":"2012-10-17","Statement":[]}'
    assert refused(s3.put_bucket_policy, Bucket=projects, Policy=policy) == "AccessDenied"


async def test_nobody_gets_in_without_keys(store: ObjectStore, server: SeaweedServer, projects: str) -> None:
    pair = keys()
    await store.grant("a", *pair)
    with_keys = client(store.credentials(*pair))
    # Whether a store takes these or refuses them: they open nothing.
    code_of(with_keys.put_object, Bucket=projects, Key="public", Body=b"", ACL="public-read")
    code_of(with_keys.put_object_acl, Bucket=projects, Key="public", ACL="public-read")
    s3 = client(None, server.endpoint.s3_url)
    assert refused(s3.list_buckets) == "AccessDenied"
    assert refused(s3.list_objects_v2, Bucket=projects) == "AccessDenied"
    assert refused(s3.get_object, Bucket=projects, Key="key") == "AccessDenied"
    assert refused(s3.get_object, Bucket=projects, Key="public") == "AccessDenied"
    assert refused(s3.put_object, Bucket=projects, Key="key", Body=b"") == "AccessDenied"
    await store.delete(projects, "public")


async def test_granting_again_is_idempotent_and_new_keys_replace_the_old(store: ObjectStore, projects: str) -> None:
    old, new = keys(), keys()
    for _ in range(2):
        await store.grant("a", *old)
    await store.grant("a", *new)
    assert client(store.credentials(*new)).list_objects_v2(Bucket=projects)["KeyCount"] == 1
    assert refused(client(store.credentials(*old)).list_objects_v2, Bucket=projects) == "InvalidAccessKeyId"


async def test_revoked_keys_are_useless(store: ObjectStore, projects: str) -> None:
    pair = keys()
    await store.grant("a", *pair)
    for _ in range(2):
        await store.revoke("a")
    s3 = client(store.credentials(*pair))
    until(lambda: code_of(s3.list_objects_v2, Bucket=projects) == "InvalidAccessKeyId", 5)


@pytest.mark.parametrize("project", ["", "*", "a.*", "../a", "A", "a,Admin", "a\n"])
async def test_a_project_name_cannot_widen_what_is_granted(store: ObjectStore, project: str) -> None:
    with pytest.raises(Invalid):
        await store.grant(project, *keys())
    with pytest.raises(Invalid):
        await store.revoke(project)
