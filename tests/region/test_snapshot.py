"""Snapshot: the hot path's memory follows the store, survives gaps, and tells its age."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from falaj.region.admission import Admission, bootstrap
from falaj.region.database import Database, migrate
from falaj.region.lease import Finished, Leases
from falaj.region.resource import Key
from falaj.region.snapshot import Snapshot
from falaj.region.store import Store
from falaj.trust.identity import Principal
from tests.conftest import KINDS
from tests.postgres import PostgresServer
from tests.region.declare import bucket, project

B = Key("Bucket", "p", "b")


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def snapshot(admission: Admission, database: Database, store: Store) -> AsyncIterator[Snapshot]:
    opened = Snapshot(database, store)
    assert opened.age_seconds == float("inf")
    await opened.start()
    yield opened
    await opened.close()


async def test_it_starts_complete_and_follows(
    snapshot: Snapshot, admission: Admission, database: Database, store: Store, admin: Principal
) -> None:
    assert [site.metadata.name for site in snapshot.list("Site")] == ["local-a"]
    await admission.apply(admin, [project("p"), bucket("b"), bucket("a"), project("q"), bucket("b", "q")])
    await until(lambda: len(snapshot.list("Bucket")) == 3)
    assert [(r.metadata.project, r.metadata.name) for r in snapshot.list("buckets")] == [
        ("p", "a"),
        ("p", "b"),
        ("q", "b"),
    ]
    assert [r.metadata.name for r in snapshot.list("Bucket", "q")] == ["b"]
    await admission.apply(admin, [bucket("b", versioning=True)])
    await until(lambda: snapshot.find(B) is not None and snapshot.find(B).spec.versioning)  # type: ignore[union-attr]
    leases = Leases(database, store, holder="test")
    await admission.delete(admin, B)
    (claim,) = [c for c in await leases.claim(["Bucket"], 10) if c.resource.key == B]
    await leases.release([Finished(claim, None, gone=True)])
    await until(lambda: snapshot.find(B) is None)


async def test_a_thousand_changes_at_once(snapshot: Snapshot, admission: Admission, admin: Principal) -> None:
    started = time.monotonic()
    await admission.apply(admin, [project("p"), *(bucket(f"b{n:04}") for n in range(1200))])
    await until(lambda: len(snapshot.list("Bucket")) == 1200)
    assert time.monotonic() - started < 8


async def test_its_age_is_small_while_nothing_happens(snapshot: Snapshot) -> None:
    oldest = 0.0
    for _ in range(50):
        await asyncio.sleep(0.1)
        oldest = max(oldest, snapshot.age_seconds)
    assert 0.5 < oldest < 4


async def test_it_answers_while_postgres_is_away_and_catches_up(own_postgres: PostgresServer, admin: Principal) -> None:
    url = own_postgres.url("postgres")
    async with Database(url, wait_seconds=2) as database, Database(url, wait_seconds=2) as other:
        await migrate(database)
        store = Store(database, KINDS)
        admission = Admission(other, Store(other, KINDS))
        await bootstrap(admission, store, "local-a", "AE")
        await admission.apply(admin, [project("p"), bucket("b")])
        snapshot = Snapshot(database, store)
        await snapshot.start()
        try:
            for n in range(2):
                own_postgres.kill()
                await asyncio.sleep(2.5)
                assert snapshot.find(B) is not None
                assert snapshot.age_seconds > 2
                own_postgres.start()
                await admission.apply(admin, [bucket(f"late{n}")])
                await until(lambda: snapshot.find(Key("Bucket", "p", f"late{n}")) is not None)  # noqa: B023
                await until(lambda: snapshot.age_seconds < 3)
        finally:
            await snapshot.close()


async def test_it_starts_empty_without_postgres(own_postgres: PostgresServer, admin: Principal) -> None:
    async with Database(own_postgres.url("postgres"), wait_seconds=2) as database:
        await migrate(database)
        store = Store(database, KINDS)
        own_postgres.stop()
        snapshot = Snapshot(database, store)
        await snapshot.start(wait_seconds=0.5)
        try:
            assert snapshot.list("Site") == []
            assert snapshot.age_seconds == float("inf")
            own_postgres.start()
            await bootstrap(Admission(database, store), store, "local-a", "AE")
            await until(lambda: len(snapshot.list("Site")) == 1)
        finally:
            await snapshot.close()
