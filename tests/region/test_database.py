"""Database: errors, healing, notifications, migrations, against a real Postgres."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import aclosing

import psycopg
import pytest

from falaj.errors import Conflict, Invalid, LimitExceeded, Terminal, Transient
from falaj.region.database import BEAT, GAP, Database, migrate, translate
from tests.postgres import PostgresServer

INSERT = "INSERT INTO api_key (id, name, digest) VALUES (%s, 'n', '')"


async def test_errors_are_translated(database: Database) -> None:
    await database.execute(INSERT, "a")
    with pytest.raises(Conflict, match="already exists"):
        await database.execute(INSERT, "a")
    with pytest.raises(Invalid, match="NUL"):
        await database.execute(INSERT, "b\0")
    with pytest.raises(Terminal, match="syntax error"):
        await database.fetch("SELEKT 1")
    with pytest.raises(Transient, match="not prepared"):
        await database.fetch("SELECT * FROM later")
    with pytest.raises(Transient):
        await database.execute("SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)")


async def test_a_full_disk_is_a_limit() -> None:
    assert isinstance(translate(psycopg.errors.DiskFull("could not extend file: No space left")), LimitExceeded)


async def test_a_transaction_is_whole_or_not_at_all(database: Database) -> None:

    async def twice() -> None:
        async with database.transaction() as connection:
            await connection.execute(INSERT, ("a",))
            await connection.execute(INSERT, ("a",))

    with pytest.raises(Conflict):
        await twice()
    assert await database.fetch("SELECT * FROM api_key") == []


async def test_a_restart_of_postgres_is_not_seen(own_postgres: PostgresServer) -> None:
    async with Database(own_postgres.url("postgres"), connections_max=6) as database:
        await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.2)") for _ in range(6)))
        for end in (own_postgres.stop, own_postgres.kill):
            end()
            own_postgres.start()
            started = time.monotonic()
            await asyncio.gather(*(database.fetch("SELECT 1") for _ in range(12)))
            assert time.monotonic() - started < 5


async def test_an_absent_postgres_is_transient_and_heals(own_postgres: PostgresServer) -> None:
    async with Database(own_postgres.url("postgres"), wait_seconds=2) as database:
        await database.fetch("SELECT 1")
        own_postgres.kill()
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(Transient):
                await database.fetch("SELECT 1")
            assert time.monotonic() - started < 4
        own_postgres.start()
        assert await database.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_a_frozen_postgres_is_transient(own_postgres: PostgresServer) -> None:
    limits = {"connections_max": 1, "statement_seconds_max": 1, "wait_seconds": 2}
    async with Database(own_postgres.url("postgres"), **limits) as database:  # type: ignore[arg-type]
        (row,) = await database.fetch("SELECT pg_backend_pid() AS pid")
        frozen = [own_postgres.pid, int(row["pid"])]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(Transient):
                await asyncio.wait_for(database.fetch("SELECT 1"), 20)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        assert await database.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_an_unconfirmed_commit_counts_as_failed(own_postgres: PostgresServer) -> None:
    """A synchronous standby that never comes: COMMIT waits, and a cancelled wait must not look like success."""
    async with Database(own_postgres.url("postgres")) as database, Database(own_postgres.url("postgres")) as other:
        await database.execute("CREATE TABLE t (n int)")
        await database.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await database.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(0.5)

        async def cancel() -> None:
            while True:
                await asyncio.sleep(0.1)
                await other.fetch("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")

        canceller = asyncio.create_task(cancel())
        try:
            with pytest.raises(Transient, match="not confirmed"):
                async with database.transaction() as connection:
                    await connection.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(Transient, match="not confirmed"):
                await database.execute("INSERT INTO t VALUES (2)")
        finally:
            canceller.cancel()
        assert len(await database.fetch("SELECT * FROM t")) == 2, "reads do not inherit the doubt"


async def test_listen_tells_gaps_and_survives_a_kill(own_postgres: PostgresServer) -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async with Database(own_postgres.url("postgres")) as database:

        async def follow() -> None:
            async with aclosing(database.listen("a", "b", beat_seconds=0.2)) as notifications:
                async for notification in notifications:
                    heard.put_nowait(notification)

        async def next_of(*wanted: tuple[str, str]) -> tuple[str, str]:
            async with asyncio.timeout(10):
                while (got := await heard.get()) not in wanted:
                    assert got == BEAT
                return got

        follower = asyncio.create_task(follow())
        try:
            await next_of(GAP)
            await database.execute("SELECT pg_notify('b', 'x')")
            await next_of(("b", "x"))
            assert await asyncio.wait_for(heard.get(), 5) == BEAT
            own_postgres.kill()
            own_postgres.start()
            await next_of(GAP)
            await database.execute("SELECT pg_notify('a', 'y')")
            await next_of(("a", "y"))
        finally:
            follower.cancel()


async def test_migrations_at_once_and_again(own_postgres: PostgresServer) -> None:
    async with Database(own_postgres.url("postgres")) as one, Database(own_postgres.url("postgres")) as other:
        await asyncio.gather(migrate(one), migrate(other), migrate(one))
        await migrate(one)
        (first, *_) = await one.fetch("SELECT number FROM schema_migration ORDER BY number")
        assert first == {"number": 1}
        await one.execute("UPDATE schema_migration SET sha256 = 'edited' WHERE number = 1")
        with pytest.raises(Terminal, match="edited"):
            await migrate(one)
        await one.execute("UPDATE schema_migration SET number = 9999, name = '9999_future.sql' WHERE number = 1")
        with pytest.raises(Terminal, match="newer"):
            await migrate(one)
