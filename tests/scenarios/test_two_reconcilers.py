"""Two real processes reconcile one database; one is frozen, or killed. Nobody overlaps, no stale holder writes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from falaj.region.admission import Admission
from falaj.region.database import Database
from falaj.trust.identity import Principal
from tests.region.declare import bucket, project

BUCKETS = 40
LEASE_SECONDS = 2.0

Worker = subprocess.Popen[bytes]

_WATCH = """
CREATE TABLE witness (
    id bigint GENERATED ALWAYS AS IDENTITY, name text, holder text, token bigint,
    began timestamptz DEFAULT clock_timestamp(), ended timestamptz
);
CREATE TABLE written (id bigint GENERATED ALWAYS AS IDENTITY, name text, token bigint, at timestamptz);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO written (name, token, at) VALUES (NEW.name, (NEW.status->>'s3_bucket')::bigint, clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER UPDATE ON resource FOR EACH ROW
    WHEN (NEW.kind = 'Bucket' AND OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION watch();
"""


@pytest.fixture
async def declared(admission: Admission, database: Database, admin: Principal) -> None:
    """Buckets to work on, and tables that remember who worked when and who wrote what."""
    async with database.transaction() as connection:
        await connection.execute(_WATCH)
    await admission.apply(admin, [project("p"), *(bucket(f"b{n}") for n in range(BUCKETS))])


@pytest.fixture
async def start(declared: None, database_url: str) -> AsyncIterator[Callable[[str], Worker]]:
    """Start a worker by name; all of them are ended after the test."""
    started: list[Worker] = []

    def begin(holder: str) -> Worker:
        command = [sys.executable, "-m", "tests.scenarios.reconcile_worker", database_url, holder, str(LEASE_SECONDS)]
        started.append(subprocess.Popen(command, cwd=Path(__file__).parents[2]))
        return started[-1]

    yield begin
    for worker in started:
        if worker.poll() is None:
            worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait(timeout=10)


async def steps(database: Database, holder: str) -> int:
    (row,) = await database.fetch("SELECT count(*) AS n FROM witness WHERE holder = %s", holder)
    return int(row["n"])


async def until_working(database: Database, *holders: str) -> None:
    async with asyncio.timeout(30):
        for holder in holders:
            while await steps(database, holder) < 30:
                await asyncio.sleep(0.05)


async def until_all_written(database: Database) -> None:
    """Every bucket gets a new status from now on."""
    (row,) = await database.fetch("SELECT coalesce(max(id), 0) AS id FROM written")
    async with asyncio.timeout(30):
        while True:
            (now,) = await database.fetch("SELECT count(DISTINCT name) AS n FROM written WHERE id > %s", row["id"])
            if now["n"] == BUCKETS:
                return
            await asyncio.sleep(0.05)


async def overlaps(database: Database) -> list[dict[str, object]]:
    """Steps on one bucket at the same time. A step that never ended belongs to a killed process."""
    return await database.fetch(
        "SELECT a.name, a.holder, a.began, a.ended, b.holder AS other, b.began AS other_began FROM witness a"
        " JOIN witness b ON a.name = b.name AND a.id <> b.id AND b.began >= a.began AND b.began < a.ended"
    )


async def stale_writes(database: Database) -> list[dict[str, object]]:
    """Statuses written under a smaller token than one before them."""
    return await database.fetch(
        "SELECT a.name, a.token, b.token AS later FROM written a JOIN written b"
        " ON a.name = b.name AND a.id < b.id AND a.token >= b.token"
    )


async def test_two_share_the_work_and_never_overlap(start: Callable[[str], Worker], database: Database) -> None:
    workers = [start("one"), start("two")]
    await until_working(database, "one", "two")
    await until_all_written(database)
    for worker in workers:
        worker.terminate()
        assert worker.wait(timeout=15) == 0
    assert await overlaps(database) == []
    assert await stale_writes(database) == []
    assert await database.fetch("SELECT * FROM lease") == [], "leases are given back"


async def test_a_killed_ones_work_is_taken_over(start: Callable[[str], Worker], database: Database) -> None:
    victim, _ = start("victim"), start("other")
    await until_working(database, "victim", "other")
    victim.kill()
    victim.wait(timeout=10)
    before = await steps(database, "victim")
    await until_all_written(database)
    assert await steps(database, "victim") == before
    assert await overlaps(database) == []
    assert await stale_writes(database) == []


async def test_a_frozen_one_writes_nothing_stale_when_it_wakes(
    start: Callable[[str], Worker], database: Database
) -> None:
    frozen, _ = start("frozen"), start("other")
    await until_working(database, "frozen", "other")
    for _ in range(3):
        frozen.send_signal(signal.SIGSTOP)
        await until_all_written(database)  # also what the frozen one held, once its leases ended
        frozen.send_signal(signal.SIGCONT)
        before = await steps(database, "frozen")
        async with asyncio.timeout(20):
            while await steps(database, "frozen") < before + 20:  # it works on, under new leases
                await asyncio.sleep(0.05)
    assert frozen.poll() is None
    assert await stale_writes(database) == []
    lost = await database.fetch(
        "SELECT * FROM written w WHERE NOT EXISTS (SELECT 1 FROM witness s WHERE s.token = w.token AND s.name = w.name)"
    )
    assert lost == [], "every status was written by the step that held the lease"
