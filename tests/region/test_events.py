"""Events: counted, bounded, in order."""

from __future__ import annotations

import asyncio

from falaj.region import events
from falaj.region.database import Database
from falaj.region.events import Happening, prune, record
from falaj.region.resource import Key
from falaj.region.store import Store

A, B = Key("Bucket", "p", "a"), Key("Bucket", "p", "b")


async def write(database: Database, *happenings: Happening) -> None:
    async with database.transaction() as connection:
        await record(connection, happenings)


async def test_the_same_in_a_row_is_counted(database: Database, store: Store) -> None:
    for _ in range(5):
        await write(database, Happening(A, "Failed", "no disk", warning=True), Happening(B, "Failed", "no disk"))
    await write(database, Happening(A, "Ready", "fine"))
    await write(database, Happening(A, "Failed", "no disk", warning=True))
    told = [(e.type, e.reason, e.count) for e in await store.events(key=A)]
    assert told == [("Warning", "Failed", 5), ("Normal", "Ready", 1), ("Warning", "Failed", 1)]
    assert [e.count for e in await store.events(key=B)] == [5]


async def test_reading_follows_and_filters(database: Database, store: Store) -> None:
    other = Key("Bucket", "q", "a")
    await write(database, *(Happening(key, f"R{n}", "m") for n in range(4) for key in (A, other)))
    assert [e.reason for e in await store.events(project="p", limit=2)] == ["R2", "R3"], "the latest, oldest first"
    first = (await store.events(limit=1000))[0]
    assert [e.reason for e in await store.events(project="p", after=first.id, limit=2)] == ["R1", "R2"]
    assert first.as_dict()["at"].endswith("+00:00")
    assert await store.events(key=Key("Bucket", "p", "none")) == []


async def test_a_long_message_is_cut(database: Database, store: Store) -> None:
    await write(database, Happening(A, "R", "x" * 5000 + "\0"))
    (event,) = await store.events(key=A)
    assert len(event.message) == events.MESSAGE_CHARACTERS_MAX


async def test_nobody_who_follows_misses_one(database: Database, store: Store) -> None:
    """Writers at once, of different length: a reader that asks "after the last id I saw" sees every event."""
    seen: list[int] = []
    done = asyncio.Event()

    async def follow() -> None:
        last = 0
        while True:
            finished = done.is_set()
            page = await store.events(after=last or 1, limit=1000)
            seen.extend(e.id for e in page)
            last = page[-1].id if page else last
            if finished and not page:
                return
            await asyncio.sleep(0)

    async def writer(n: int) -> None:
        for i in range(20):
            async with database.transaction() as connection:
                await record(connection, [Happening(Key("Bucket", "p", f"w{n}"), f"R{i}", "m")])
                await asyncio.sleep(0.001 * (n % 3))

    await write(database, Happening(A, "First", "its id is 1"))
    follower = asyncio.create_task(follow())
    await asyncio.gather(*(writer(n) for n in range(5)))
    done.set()
    await asyncio.wait_for(follower, 30)
    assert len(seen) == 100


async def test_pruning_keeps_the_last(database: Database, store: Store) -> None:
    await write(database, *(Happening(A, f"R{n}", "m") for n in range(events.KEPT_PER_RESOURCE + 30)))
    await write(database, Happening(B, "Old", "m"))
    await database.execute("UPDATE event SET at = now() - interval '30 days' WHERE name = 'b'")
    assert await prune(database) == 31
    kept = await store.events(limit=1000)
    assert [kept[0].reason, kept[-1].reason, len(kept)] == ["R30", "R79", events.KEPT_PER_RESOURCE]
