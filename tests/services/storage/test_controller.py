"""Declared buckets become real, credentials reach them and nothing else, and no data go silently."""

from __future__ import annotations

import asyncio
import time

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.region.admission import Admission
from falaj.region.database import Database
from falaj.region.resource import Key
from falaj.region.snapshot import Snapshot
from falaj.region.store import Store
from falaj.services.storage.controller import BucketController
from falaj.services.storage.objects import Objects
from falaj.trust.identity import Principal
from tests.region.declare import bucket, project
from tests.services.reconciling import reconciling, set_status, until, until_gone


@pytest.fixture
def controller(objects: SeaweedStore, database: Database, store: Store) -> BucketController:
    return BucketController(objects, database, store)


def ready(resource: object) -> bool:
    return bool(resource.status.ready)  # type: ignore[attr-defined]


def reason(wanted: str) -> object:
    return lambda resource: (condition := resource.status.condition()) is not None and condition.reason == wanted


async def test_a_declared_bucket_is_made(
    controller: BucketController, objects: SeaweedStore, database: Database, store: Store, admission: Admission,
    admin: Principal, name: str,
) -> None:  # fmt: skip
    await admission.apply(admin, [bucket("docs", name)])
    async with reconciling(database, store, controller):
        made = await until(store, Key("Bucket", name, "docs"), ready)
    assert made.status.s3_bucket == f"{name}.docs"
    assert made.status.site == "local-a"
    assert made.status.s3_endpoint.startswith("http://127.0.0.1:")
    assert f"{name}.docs" in await objects.observe_buckets()


async def test_what_was_removed_behind_our_back_comes_back(
    controller: BucketController, objects: SeaweedStore, database: Database, store: Store, admission: Admission,
    admin: Principal, name: str,
) -> None:  # fmt: skip
    key = Key("Bucket", name, "docs")
    await admission.apply(admin, [bucket("docs", name)])
    async with reconciling(database, store, controller):
        await until(store, key, ready)
        await objects.delete_bucket(f"{name}.docs")
        await asyncio.sleep(3.1)  # until the listing that serves many is read again
        await store.touch(key)
        async with asyncio.timeout(10):
            while f"{name}.docs" not in await objects.observe_buckets():
                await asyncio.sleep(0.1)


async def test_a_projects_credentials_reach_its_buckets_and_nothing_else(
    controller: BucketController, objects: SeaweedStore, database: Database, store: Store, admission: Admission,
    admin: Principal, name: str,
) -> None:  # fmt: skip
    await admission.apply(admin, [project(f"{name}x"), bucket("docs", name), bucket("docs", f"{name}x")])
    async with reconciling(database, store, controller):
        for owner in (name, f"{name}x"):
            await until(store, Key("Bucket", owner, "docs"), ready)
    credentials = await Objects(objects, Snapshot(database, store), database).credentials(name)
    client = boto3.client(
        "s3",
        endpoint_url=credentials.endpoint_url,
        region_name=credentials.region,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    client.put_object(Bucket=f"{name}.docs", Key="a.txt", Body=b"mine")
    assert client.get_object(Bucket=f"{name}.docs", Key="a.txt")["Body"].read() == b"mine"
    for call in (
        lambda: client.put_object(Bucket=f"{name}x.docs", Key="a.txt", Body=b"not mine"),
        lambda: client.list_objects_v2(Bucket=f"{name}x.docs"),
        lambda: client.list_objects_v2(Bucket="system.index"),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"]["Code"] == "AccessDenied"


async def test_a_bucket_with_objects_is_not_deleted(
    controller: BucketController, objects: SeaweedStore, database: Database, store: Store, admission: Admission,
    admin: Principal, name: str,
) -> None:  # fmt: skip
    key = Key("Bucket", name, "docs")
    await admission.apply(admin, [bucket("docs", name)])
    async with reconciling(database, store, controller):
        await until(store, key, ready)
        for number in range(3):
            await objects.put(f"{name}.docs", f"{number}.txt", b"kept")
        await admission.delete(admin, key)
        kept = await until(store, key, reason("NotEmpty"))  # type: ignore[arg-type]
        assert "3 objects" in kept.status.condition().message
        assert await objects.get(f"{name}.docs", "1.txt") == b"kept"
        for number in range(3):
            await objects.delete(f"{name}.docs", f"{number}.txt")
        await store.touch(key)
        await until_gone(store, key)
    assert f"{name}.docs" not in await objects.observe_buckets()
    assert await database.fetch("SELECT 1 FROM project_credential WHERE project = %s", name) == []


async def test_credentials_stay_until_the_last_bucket_goes(
    controller: BucketController, database: Database, store: Store, admission: Admission, admin: Principal, name: str
) -> None:
    await admission.apply(admin, [bucket("one", name), bucket("two", name)])

    async def keys() -> list[str]:
        rows = await database.fetch("SELECT access_key FROM project_credential WHERE project = %s", name)
        return [row["access_key"] for row in rows]

    async with reconciling(database, store, controller):
        for each in ("one", "two"):
            await until(store, Key("Bucket", name, each), ready)
        before = await keys()
        await admission.delete(admin, Key("Bucket", name, "one"))
        await until_gone(store, Key("Bucket", name, "one"))
        assert await keys() == before
        assert len(before) == 1


async def test_names_that_falaj_keeps_for_itself(
    controller: BucketController, objects: SeaweedStore, database: Database, store: Store, admission: Admission,
    admin: Principal, name: str,
) -> None:  # fmt: skip
    await objects.create_bucket("system.index")
    key = Key("Bucket", "system", "index")
    await admission.apply(admin, [bucket("index", "system")])
    async with reconciling(database, store, controller):
        refused = await until(store, key, reason("Terminal"))  # type: ignore[arg-type]
        assert "kept for Falaj" in refused.status.condition().message
        await admission.delete(admin, key)
        await until_gone(store, key)
    assert "system.index" in await objects.observe_buckets()


async def test_a_bucket_waits_for_a_site(
    controller: BucketController, database: Database, store: Store, admission: Admission, admin: Principal, name: str
) -> None:
    await set_status(database, Key("Site", "", "local-a"), conditions=[])
    key = Key("Bucket", name, "docs")
    await admission.apply(admin, [bucket("docs", name)])
    async with reconciling(database, store, controller):
        await until(store, key, reason("Transient"))  # type: ignore[arg-type]
        await set_status(database, Key("Site", "", "local-a"))
        await asyncio.sleep(3.1)
        await store.touch(key)
        await until(store, key, ready)


async def test_a_thousand_buckets(
    controller: BucketController, objects: SeaweedStore, database: Database, store: Store, admission: Admission,
    admin: Principal, name: str,
) -> None:  # fmt: skip
    """A tenth of what is promised (1,000 made within 60 s, looked at again within 3 s), also when busy."""
    count = 100
    await admission.apply(admin, [bucket(f"b{number}", name) for number in range(count)])
    async with reconciling(database, store, controller):
        began = time.monotonic()
        async with asyncio.timeout(60):
            while (await store.counts()).get("Bucket", {}).get("ready", 0) < count:
                await asyncio.sleep(0.05)
        made_seconds = time.monotonic() - began
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await store.touch(*(Key("Bucket", name, f"b{number}") for number in range(count)))
        async with asyncio.timeout(30):
            while await database.fetch(
                "SELECT 1 FROM resource WHERE kind = 'Bucket' AND reconcile_at <= now() LIMIT 1"
            ):
                await asyncio.sleep(0.02)
        looked_seconds = time.monotonic() - began
    assert made_seconds < 24
    assert looked_seconds < 3
