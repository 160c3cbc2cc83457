"""Whether the region is ready, and what it looks like at a glance; answered also while Postgres is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from falaj.engines.interface import Processes, ProcessState
from falaj.errors import FalajError
from falaj.protocols.operations import Check
from falaj.region.resource import SYSTEM_PROJECT, Key, Kind, KindTable, Resource, Scope
from falaj.region.snapshot import Snapshot
from falaj.trust.identity import Principal

#: Probes are asked at most this often, however many ask: the health wires need no key.
CACHE_SECONDS: Final = 0.5
PROBE_SECONDS_MAX: Final = 2.0

Probe = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What this process was told about the region and its place in it."""

    region: str
    site: str
    jurisdiction: str
    url: str
    s3_url: str
    version: str


class Readiness:
    """Looks at the region from where its clients do: the gateway.

    Args:
        probes: by name, what must answer in ``PROBE_SECONDS_MAX``; a ``FalajError`` or ``OSError`` says that it cannot.
    """

    def __init__(
        self, identity: Identity, kinds: KindTable, snapshot: Snapshot, processes: Processes, probes: dict[str, Probe]
    ) -> None:
        self._identity = identity
        self._kinds = kinds
        self._snapshot = snapshot
        self._processes = processes
        self._probes = probes
        self._lock = asyncio.Lock()
        self._checks: list[Check] = []
        self._checked_at = -CACHE_SECONDS

    async def checks(self) -> list[Check]:
        """Everything that must hold before the region is ready, and whether it does."""
        async with self._lock:
            if monotonic() - self._checked_at >= CACHE_SECONDS:
                probed = await asyncio.gather(*(_probe(name, probe) for name, probe in self._probes.items()))
                self._checks = [*probed, self._control(), self._site()]
                self._checked_at = monotonic()
            return self._checks

    async def status(self, caller: Principal) -> dict[str, Any]:
        """The region at a glance; a project's key sees its own project's resources counted."""
        checks = await self.checks()
        identity = self._identity
        return {
            "region": identity.region,
            "ready": all(check.ready for check in checks),
            "url": identity.url,
            "s3_url": identity.s3_url,
            "version": identity.version,
            "sites": self._sites(),
            "resources": {kind.name: self._count(kind, caller) for kind in self._kinds},
        }

    def _control(self) -> Check:
        state = self._processes.observe("control")
        if state is None or not state.ready:
            return Check("control", ready=False, message=state.message if state else "not declared")
        if self._snapshot.find(Key("Project", "", SYSTEM_PROJECT)) is None:
            return Check("control", ready=False, message="the region is being set up")
        return Check("control", ready=True)

    def _site(self) -> Check:
        site = self._snapshot.find(Key("Site", "", self._identity.site))
        if site is None:
            return Check("site", ready=False, message="not declared yet")
        condition = site.status.condition()
        return Check("site", ready=site.status.ready, message=condition.message if condition else "not observed yet")

    def _sites(self) -> list[dict[str, Any]]:
        identity = self._identity
        here = [_engine(state) for state in self._processes.observe_all().values()]
        known = self._snapshot.list("Site")
        sites = [
            {
                "name": site.metadata.name,
                "jurisdiction": site.spec.jurisdiction,
                "ready": site.status.ready,
                # This machine's processes are looked at now; another site's are what its controller reported.
                "engines": here if site.metadata.name == identity.site else _reported(site),
            }
            for site in known
        ]
        if identity.site not in {site["name"] for site in sites}:
            own = {"name": identity.site, "jurisdiction": identity.jurisdiction, "ready": False, "engines": here}
            sites.append(own)
        return sites

    def _count(self, kind: Kind, caller: Principal) -> dict[str, int]:
        if caller.project is not None and kind.name == "Project":
            own = self._snapshot.find(Key("Project", "", caller.project))
            found = [own] if own else []
        else:
            found = self._snapshot.list(kind.name, caller.project if kind.scope is Scope.PROJECT else None)
        return {"total": len(found), "ready": sum(resource.status.ready for resource in found)}


async def _probe(name: str, probe: Probe) -> Check:
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            await probe()
    except TimeoutError:
        return Check(name, ready=False, message=f"no answer within {PROBE_SECONDS_MAX:g} s")
    except (FalajError, OSError) as error:
        return Check(name, ready=False, message=error.message if isinstance(error, FalajError) else str(error))
    return Check(name, ready=True)


async def reach(host: str, port: int) -> None:
    """Probe that something accepts connections there.

    Raises:
        OSError: nothing does.
    """
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


def _engine(state: ProcessState) -> dict[str, Any]:
    return {
        "name": state.name,
        "ready": state.ready,
        "pid": state.pid,
        "port": state.port,
        "restarts": state.restarts,
        "message": state.message,
    }


def _reported(site: Resource) -> list[dict[str, Any]]:
    fields = {"name", "ready", "pid", "port", "restarts", "message"}
    return [engine.model_dump(include=fields) for engine in site.status.engines]
