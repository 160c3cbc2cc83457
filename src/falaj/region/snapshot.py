"""Every resource in memory, for the hot path: kept fresh by notifications, read again after a gap."""

from __future__ import annotations

import asyncio
import builtins
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from falaj.errors import FalajError
from falaj.region.database import BEAT, GAP, Database
from falaj.region.resource import Key, Resource
from falaj.region.store import PAGE_MAX, Store

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
GATHER_SECONDS = 0.01
RETRY_SECONDS = 0.5


class Snapshot:
    """All resources of a region in memory.

    What it answers may be older than the store by ``age_seconds``, normally a few milliseconds; while Postgres is away
    it goes on answering from the last state and the age grows. Resources are shared: do not change them.
    """

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store
        self._resources: dict[str, dict[Key, Resource]] = {kind.name: {} for kind in store.kinds}
        self._changed: set[Key] = set()
        self._heard = asyncio.Event()
        self._gap = False
        self._fresh_at = float("-inf")
        self._complete = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, wait_seconds: float = 10.0) -> None:
        """Begin to follow the store, and wait for the first complete state.

        When Postgres is not there in time the snapshot starts empty, with an infinite age, and fills by itself.
        """
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._follow())]
        try:
            async with asyncio.timeout(wait_seconds):
                await self._complete.wait()
        except TimeoutError:
            logger.warning("the snapshot starts empty: Postgres did not answer within %.0f s", wait_seconds)

    async def close(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def age_seconds(self) -> float:
        """Since when it may differ from the store: seconds since it was last known to be the same."""
        return time.monotonic() - self._fresh_at

    def find(self, key: Key) -> Resource | None:
        """The resource, or None."""
        return self._resources.get(key.kind, {}).get(key)

    async def _listen(self) -> None:
        async with aclosing(self._notifications()) as notifications:
            async for channel, payload in notifications:
                if (channel, payload) == GAP:
                    self._gap = True
                elif (channel, payload) == BEAT:
                    if not self._changed and not self._gap and self._complete.is_set():
                        self._fresh_at = time.monotonic()
                    continue
                else:
                    self._changed.add(Key.parse(payload))
                self._heard.set()

    def _notifications(self) -> AsyncGenerator[tuple[str, str], None]:
        return self._database.listen("falaj_resource", beat_seconds=BEAT_SECONDS)

    async def _follow(self) -> None:
        """Read what changed; many changes that come together are read together."""
        while True:
            await self._heard.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._heard.clear()
            gap, self._gap = self._gap, False
            changed, self._changed = self._changed, set()
            began = time.monotonic()
            try:
                if gap:
                    await self._read_all()
                    self._complete.set()
                elif changed:
                    await self._read(changed)
            except FalajError as error:
                logger.warning("the snapshot cannot be refreshed now: %s", error)
                self._gap, self._changed = self._gap or gap, self._changed | changed
                self._heard.set()
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if self._complete.is_set():
                    self._fresh_at = began

    async def _read(self, changed: set[Key]) -> None:
        known = {kind.name for kind in self._store.kinds}
        keys = sorted(key for key in changed if key.kind in known)
        for first in range(0, len(keys), PAGE_MAX):
            page = keys[first : first + PAGE_MAX]
            found = await self._store.find_many(page)
            for key in page:
                if key in found:
                    self._resources[key.kind][key] = found[key]
                else:
                    self._resources[key.kind].pop(key, None)

    async def _read_all(self) -> None:
        """Read page by page; each kind is exchanged whole. What changes meanwhile is heard, and read after."""
        for kind in self._store.kinds:
            resources: dict[Key, Resource] = {}
            after = ("", "")
            while page := await self._store.list(kind.name, limit=PAGE_MAX, after=after):
                resources |= {resource.key: resource for resource in page}
                after = (page[-1].metadata.project, page[-1].metadata.name)
            self._resources[kind.name] = resources

    def list(self, kind: str, project: str | None = None) -> builtins.list[Resource]:
        """Resources of a kind, in the order of (project, name)."""
        found = self._resources.get(self._store.kinds.get(kind).name, {})
        return [found[key] for key in sorted(found) if project is None or key.project == project]
