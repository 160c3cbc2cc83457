"""The controllers of Site and Project, run by a real reconciler over a real database."""

from __future__ import annotations

import pytest

from falaj.errors import Denied
from falaj.region.admission import Admission
from falaj.region.controller import ProjectController, SiteController
from falaj.region.database import Database
from falaj.region.kinds import EngineStatus
from falaj.region.resource import Key, Resource
from falaj.region.store import Store
from falaj.trust.identity import Keys, Principal
from tests.region.declare import bucket, manifest, project
from tests.region.test_reconciler import Trivial, reconciling, until

SITE = Key("Site", "", "local-a")
P = Key("Project", "", "p")


def engine(name: str, *, ready: bool) -> EngineStatus:
    return EngineStatus(name=name, ready=ready, pid=7, port=8, restarts=0, message="" if ready else "no answer")


async def told(store: Store, key: Key, reason: str) -> Resource:
    async def reached() -> bool:
        condition = (await store.get(key)).status.condition()
        return condition is not None and condition.reason == reason

    await until(reached)
    return await store.get(key)


async def test_a_site_is_ready_with_its_core_processes(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    observed = [engine("postgres", ready=True), engine("seaweedfs", ready=False), engine("model-x-0", ready=False)]
    controller = SiteController("local-a", lambda: observed, lambda name: not name.startswith("model-"))
    await admission.apply(admin, [manifest("Site", "elsewhere", jurisdiction="QA")])
    async with reconciling(database, store, controller):  # type: ignore[arg-type]
        site = await told(store, SITE, "EnginesNotReady")
        assert "seaweedfs" in site.status.condition().message
        assert [found.name for found in site.status.engines] == ["postgres", "seaweedfs", "model-x-0"]
        observed[1] = engine("seaweedfs", ready=True)
        assert (await told(store, SITE, "EnginesReady")).status.ready
        observed.clear()
        await store.touch(SITE)
        assert not (await told(store, SITE, "EnginesNotReady")).status.ready
        assert not (await store.get(Key("Site", "", "elsewhere"))).status.ready, "others report for themselves"


async def test_a_project_counts_and_takes_its_keys_with_it(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    keys = Keys(database, bytes(32))
    _, secret = await keys.create("ci", project="p")
    async with reconciling(database, store, ProjectController(database, keys.revoke_project), Trivial()):  # type: ignore[arg-type]
        await admission.apply(admin, [project("p")])
        await told(store, P, "Declared")
        await admission.apply(admin, [bucket("a"), bucket("b")])

        async def counted(expected: int) -> bool:
            return bool((await store.get(P)).status.resources == expected)

        await until(lambda: counted(2), 5)
        assert (await keys.principal(secret)).project == "p"
        await admission.delete(admin, Key("Bucket", "p", "a"))
        await until(lambda: counted(1), 5)
        await admission.delete(admin, Key("Bucket", "p", "b"))
        await admission.delete(admin, P)

        async def gone() -> bool:
            return await store.find(P) is None

        await until(gone, 5)
        with pytest.raises(Denied, match="revoked"):
            await keys.principal(secret)
