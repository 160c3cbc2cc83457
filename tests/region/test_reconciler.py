"""The reconciler: converges, backs off, is woken, heals, and gives leases back; alone in this process.

Several processes on one database are in ``tests/scenarios/test_two_reconcilers.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from falaj.errors import Conflict, FalajError, Invalid, Terminal, Transient
from falaj.region.admission import Admission, bootstrap
from falaj.region.database import Database, migrate
from falaj.region.reconciler import Reconciler, Result, Work
from falaj.region.resource import Key, Resource
from falaj.region.store import Store
from falaj.trust.identity import Principal
from tests.conftest import KINDS
from tests.postgres import PostgresServer
from tests.region.declare import bucket, knowledge_base, project

B = Key("Bucket", "p", "b")


class Trivial:
    """Reports that the resource is fine, or does what the test asks for."""

    resync_seconds = 3600.0

    def __init__(self, kind: str = "Bucket") -> None:
        self.kind = kind
        self.calls: Counter[str] = Counter()
        self.raises: BaseException | None = None
        self.step: Callable[[Resource, Work], Awaitable[Result | None]] | None = None

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        self.calls[resource.metadata.name] += 1
        if self.raises is not None:
            raise self.raises
        if self.step is not None and (result := await self.step(resource, work)) is not None:
            return result
        if resource.deleting:
            return Result(gone=True)
        resource.status.set_condition("True", "Fine", f"generation {resource.metadata.generation}")
        return Result()


@asynccontextmanager
async def reconciling(database: Database, store: Store, *controllers: Trivial, **options: Any) -> AsyncIterator[None]:
    stop = asyncio.Event()
    options = {"concurrency": 16, "holder": "test", **options}
    task = asyncio.create_task(Reconciler(database, store, controllers, **options).run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> float:
    started = time.monotonic()
    while not await condition():
        assert time.monotonic() - started < seconds, "it did not come about in time"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


def ready(store: Store, key: Key = B, status: str = "True", reason: str | None = None) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        found = await store.find(key)
        condition = found.status.condition() if found else None
        return condition is not None and condition.status == status and reason in {None, condition.reason}

    return check


async def test_it_converges_on_what_is_declared(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    controller = Trivial()
    async with reconciling(database, store, controller):
        await admission.apply(admin, [project("p"), bucket("b")])
        assert await until(ready(store)) < 3, "a notification wakes it, not the poll"
        found = await store.get(B)
        assert found.status.observedGeneration == 1
        (created, fine) = await store.events(key=B)
        assert (created.reason, fine.reason, fine.type) == ("Created", "Fine", "Normal")
        await admission.apply(admin, [bucket("b", versioning=True)])

        async def observed() -> bool:
            return bool((await store.get(B)).status.observedGeneration == 2)

        await until(observed)
        await admission.delete(admin, B)

        async def gone() -> bool:
            return await store.find(B) is None

        await until(gone)
    assert controller.calls["b"] == 3


async def test_idle_is_idle(admission: Admission, store: Store, database: Database, admin: Principal) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    controller = Trivial()
    async with reconciling(database, store, controller, poll_seconds=1.0):
        await until(ready(store))
        statements = 0
        fetch, transaction = database.fetch, database.transaction

        def counted(call: Any) -> Any:
            def wrapped(*arguments: Any) -> Any:
                nonlocal statements
                statements += 1
                return call(*arguments)

            return wrapped

        database.fetch, database.transaction = counted(fetch), counted(transaction)  # type: ignore[method-assign]
        await asyncio.sleep(3.2)
        assert 2 <= statements <= 12, "about one claim and one look at the queue a second"
    assert controller.calls == {"b": 1}


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (Invalid("the size is odd", hint="make it even"), "Invalid", "the size is odd (make it even)"),
        (Conflict("taken", where="weed"), "Conflict", "weed: taken"),
        (RuntimeError("boom"), "InternalError", "internal error: RuntimeError: boom (see the log of `control`)"),
        (TimeoutError("its own"), "InternalError", "internal error: TimeoutError: its own (see the log of `control`)"),
    ],
)
async def test_errors_become_conditions_and_back_off(
    admission: Admission,
    store: Store,
    database: Database,
    admin: Principal,
    error: BaseException,
    reason: str,
    message: str,
) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    controller = Trivial()
    controller.raises = error
    async with reconciling(database, store, controller, poll_seconds=0.5):
        await until(ready(store, status="False", reason=reason))
        condition = (await store.get(B)).status.condition()
        assert condition.message == message
        await asyncio.sleep(2.0)
        assert 2 <= controller.calls["b"] <= 3, "after about 1 s, then 2 s"
        controller.raises = None
        await until(ready(store))
        (row,) = await database.fetch("SELECT failures FROM resource WHERE name = 'b'")
        assert row["failures"] == 0
    told = [(event.type, event.reason) for event in await store.events(key=B)]
    assert told == [("Normal", "Created"), ("Warning", reason), ("Normal", "Fine")]


async def test_transient_comes_back_when_it_says(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    controller = Trivial()
    controller.raises = Transient("not yet", retry_after_seconds=0.3)
    async with reconciling(database, store, controller):
        await until(ready(store, status="False", reason="Transient"))
        await asyncio.sleep(1.5)
    assert 3 <= controller.calls["b"] <= 6


async def test_terminal_waits_for_a_change(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    controller = Trivial()
    controller.raises = Terminal("no such engine")
    async with reconciling(database, store, controller, poll_seconds=0.2):
        await until(ready(store, status="False", reason="Terminal"))
        await asyncio.sleep(1.5)
        assert controller.calls["b"] == 1
        controller.raises = None
        await admission.apply(admin, [bucket("b", versioning=True)])
        await until(ready(store))


async def test_a_change_during_a_step_leads_to_another(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    controller = Trivial()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def step(resource: Resource, work: Work) -> None:
        entered.set()
        await leave.wait()

    controller.step = step
    async with reconciling(database, store, controller):
        await entered.wait()
        await admission.apply(admin, [bucket("b", versioning=True)])
        leave.set()

        async def observed() -> bool:
            return bool((await store.get(B)).status.observedGeneration == 2)

        await until(observed, 3)
    assert controller.calls["b"] == 2


async def test_news_reaches_those_who_name_it(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    """A knowledge base that waits for its bucket goes on as soon as the bucket is ready, long before its resync."""
    buckets, bases = Trivial(), Trivial("KnowledgeBase")

    async def wait_for_bucket(resource: Resource, work: Work) -> Result | None:
        if not await ready(store)():
            resource.status.set_condition("False", "Waiting", "its bucket is not ready")
            return Result()
        return None

    bases.step = wait_for_bucket
    async with reconciling(database, store, buckets, bases):
        await admission.apply(admin, [project("p"), knowledge_base("k", "b")])
        await until(ready(store, Key("KnowledgeBase", "p", "k"), "False", "Waiting"))
        await admission.apply(admin, [bucket("b")])
        assert await until(ready(store, Key("KnowledgeBase", "p", "k"))) < 3


async def test_progress_is_seen_and_long_steps_keep_their_lease(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    controller = Trivial()
    remaining: list[float] = []

    async def step(resource: Resource, work: Work) -> None:
        resource.status.set_condition("False", "Working", "half way")
        await work.save()
        await work.save()
        await work.event("Noted", "something")
        await work.event("Noted", "something")
        await asyncio.sleep(2.5)
        remaining.append(work.remaining_seconds)

    controller.step = step
    options = {"lease_seconds": 1.0, "poll_seconds": 0.2, "step_seconds": 5.0}
    async with (
        reconciling(database, store, controller, holder="one", **options),
        reconciling(database, store, controller, holder="two", **options),
    ):
        await until(ready(store, status="False", reason="Working"))
        await until(ready(store))
    assert controller.calls["b"] == 1, "the lease of a step that goes on is renewed"
    assert remaining == [pytest.approx(2.5, abs=1)]
    told = [(event.reason, event.count) for event in await store.events(key=B)]
    assert told == [("Created", 1), ("Working", 1), ("Noted", 2), ("Fine", 1)]


async def test_a_lost_lease_ends_the_step(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    controller = Trivial()
    story: list[str] = []

    async def step(resource: Resource, work: Work) -> None:
        if story:
            story.append("second began")
            return
        story.append("first began")
        try:
            await database.execute("DELETE FROM lease")
            with pytest.raises(Conflict):
                await work.event("Stale", "m")
            await asyncio.sleep(30)
        finally:
            story.append("first ended")

    controller.step = step
    async with reconciling(database, store, controller, lease_seconds=2.0, poll_seconds=0.2):
        await until(ready(store))
    assert story == ["first began", "first ended", "second began"], "never two at once"
    assert "Stale" not in {event.reason for event in await store.events(key=B)}


async def test_a_step_without_end_is_ended(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    controller = Trivial()
    controller.step = lambda resource, work: asyncio.sleep(60)  # type: ignore[assignment,return-value]
    async with reconciling(database, store, controller, step_seconds_max=0.3):
        await until(ready(store, status="False", reason="Transient"))
    assert "took longer than" in (await store.get(B)).status.condition().message


async def test_a_status_that_cannot_be_stored_does_not_stop_the_others(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    controller = Trivial()

    async def step(resource: Resource, work: Work) -> None:
        if resource.metadata.name == "b":
            resource.status.s3_bucket = "a\0b"

    controller.step = step
    await admission.apply(admin, [project("p"), bucket("b"), *(bucket(f"c{n}") for n in range(30))])
    async with reconciling(database, store, controller):
        for n in range(30):
            await until(ready(store, Key("Bucket", "p", f"c{n}")))
    assert await database.fetch("SELECT * FROM lease") == []
    assert controller.calls["b"] == 1


async def test_stopping_gives_the_leases_back(
    admission: Admission, store: Store, database: Database, admin: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falaj.region.reconciler.DRAIN_SECONDS", 0.5)
    await admission.apply(admin, [project("p"), bucket("b")])
    controller = Trivial()
    controller.step = lambda resource, work: asyncio.sleep(60)  # type: ignore[assignment,return-value]
    async with reconciling(database, store, controller):

        async def leased() -> bool:
            return bool(await database.fetch("SELECT 1 FROM lease"))

        await until(leased)
    assert await database.fetch("SELECT * FROM lease") == []
    (row,) = await database.fetch("SELECT reconcile_at <= clock_timestamp() AS due FROM resource WHERE name = 'b'")
    assert row["due"], "a successor starts at once"


async def test_it_heals_after_postgres_is_killed(own_postgres: PostgresServer, admin: Principal) -> None:
    async with Database(own_postgres.url("postgres"), wait_seconds=2) as database:
        await migrate(database)
        store = Store(database, KINDS)
        admission = Admission(database, store)
        await bootstrap(admission, store, "local-a", "AE")
        await admission.apply(admin, [project("p"), *(bucket(f"b{n}") for n in range(40))])
        controller = Trivial()
        controller.step = lambda resource, work: asyncio.sleep(0.1)  # type: ignore[assignment,return-value]
        async with reconciling(database, store, controller, concurrency=4, lease_seconds=3.0, poll_seconds=0.5):
            for _ in range(2):
                await asyncio.sleep(0.3)
                own_postgres.kill()
                await asyncio.sleep(0.5)
                own_postgres.start()

            async def all_ready() -> bool:
                try:
                    return (await store.counts())["Bucket"] == {"total": 40, "ready": 40}
                except FalajError:
                    return False

            await until(all_ready, 40)
            await admission.apply(admin, [bucket("late")])
            assert await until(ready(store, Key("Bucket", "p", "late"))) < 4, "it listens again"


async def test_a_thousand_cost_little(admission: Admission, store: Store, database: Database, admin: Principal) -> None:
    """The kernel's own share: nearly all of a region's 60 s and 3 s must be left to the engines."""
    await admission.apply(admin, [project("p"), *(bucket(f"b{n:04}") for n in range(1000))])
    controller = Trivial()

    async def all_ready() -> bool:
        return (await store.counts())["Bucket"]["ready"] == 1000

    async def all_looked_at() -> bool:
        (row,) = await database.fetch(
            "SELECT count(*) AS n FROM resource WHERE reconcile_at <= clock_timestamp() AND kind = 'Bucket'"
        )
        return bool(row["n"] == 0)

    async with reconciling(database, store, controller):
        first = await until(all_ready, 30)
        await store.touch(*(Key("Bucket", "p", f"b{n:04}") for n in range(1000)))
        second = await until(all_looked_at, 15)
    print(f"kernel alone: 1,000 declared at once {first:.2f} s, no-op resync {second:.2f} s")
    assert controller.calls.total() == 2000
    assert first < 15
    assert second < 6
