"""A region in this process: a real database, real objects, and reconcilers that run while a test looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from psycopg.types.json import Jsonb

from falaj.region.database import Database
from falaj.region.reconciler import Controller, Reconciler
from falaj.region.resource import Key, Resource
from falaj.region.store import Store

Check = Callable[[Resource], bool]


async def set_status(database: Database, key: Key, **fields: Any) -> None:
    """Write a status as the controller of another room would, with Ready true unless said otherwise."""
    condition = {"type": "Ready", "status": "True", "reason": "Test", "since": "2026-01-01T00:00:00Z"}
    status = {"conditions": [condition], **fields}
    touched = await database.execute(
        "UPDATE resource SET status = %s WHERE (kind, project, name) = (%s, %s, %s)",
        Jsonb(status),
        key.kind,
        key.project,
        key.name,
    )
    assert touched == 1


@asynccontextmanager
async def reconciling(
    database: Database, store: Store, *controllers: Controller, concurrency: int = 16
) -> AsyncIterator[Reconciler]:
    """Run a reconciler for the length of a block."""
    stop = asyncio.Event()
    reconciler = Reconciler(database, store, controllers, concurrency=concurrency, holder="test", poll_seconds=0.5)
    running = asyncio.create_task(reconciler.run(stop))
    try:
        yield reconciler
    finally:
        stop.set()
        await running


async def until(store: Store, key: Key, check: Check, *, seconds: float = 60) -> Resource:
    """The resource as soon as ``check`` holds; fails with its status after ``seconds``."""
    found = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = await store.find(key)
                if found is not None and check(found):
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{key} after {seconds} s: {found.status if found else 'it is gone'}") from None


async def until_gone(store: Store, key: Key, *, seconds: float = 30) -> None:
    """Return as soon as the row is gone."""
    async with asyncio.timeout(seconds):
        while await store.find(key) is not None:
            await asyncio.sleep(0.05)


async def gather(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """Await many calls at once."""
    return list(await asyncio.gather(*calls))
