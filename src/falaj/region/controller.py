"""The controllers of the kernel's own kinds: Site and Project."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from falaj.region.database import Database
from falaj.region.kinds import PROJECT, SITE, EngineStatus, ProjectStatus, SiteStatus
from falaj.region.reconciler import Result, Work
from falaj.region.resource import Resource

_NOT_READY_SECONDS = 0.5


class SiteController:
    """Reports the processes of this machine's site. Other sites' are for the controllers that run there.

    Args:
        site: the site that this process runs on.
        observe: its processes, now.
        needed: whether the site is not ready without the process of that name.
    """

    kind = SITE.name
    resync_seconds = 5.0

    def __init__(self, site: str, observe: Callable[[], Sequence[EngineStatus]], needed: Callable[[str], bool]) -> None:
        self._site = site
        self._observe = observe
        self._needed = needed

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """One look at the processes."""
        del work
        if resource.deleting:
            return Result(gone=True)
        if resource.metadata.name != self._site:
            return Result()
        status: SiteStatus = resource.status
        status.engines = list(self._observe())
        needed = [engine for engine in status.engines if self._needed(engine.name)]
        away = [f"{engine.name} ({engine.message or 'starting'})" for engine in needed if not engine.ready]
        if not needed or away:
            status.set_condition("False", "EnginesNotReady", ", ".join(away) or "nothing runs")
            return Result(requeue_after_seconds=_NOT_READY_SECONDS)
        status.set_condition("True", "EnginesReady", f"{len(needed)} of {len(needed)} processes are ready")
        return Result()


class ProjectController:
    """Counts what a project holds. The kernel keeps a project that is being deleted until it is empty.

    Args:
        revoke_keys: makes the API keys of a deleted project useless, so that a later project of its name starts clean.
    """

    kind = PROJECT.name
    resync_seconds = 30.0

    def __init__(self, database: Database, revoke_keys: Callable[[str], Awaitable[object]]) -> None:
        self._database = database
        self._revoke_keys = revoke_keys

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """One count."""
        del work
        if resource.deleting:
            await self._revoke_keys(resource.metadata.name)
            return Result(gone=True)
        rows = await self._database.fetch(
            "SELECT count(*) AS total FROM resource WHERE project = %s", resource.metadata.name
        )
        status: ProjectStatus = resource.status
        status.resources = int(rows[0]["total"])
        status.set_condition("True", "Declared", f"at most {resource.spec.resources_max:,} resources")
        return Result()
