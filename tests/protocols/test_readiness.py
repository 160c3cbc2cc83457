"""Ready means that everything answers; the status is told also while Postgres is away."""

import asyncio
from pathlib import Path

import pytest

from falaj.app import KINDS
from falaj.engines.interface import Probe, ProcessSpec
from falaj.engines.supervisor.processes import FileProcesses
from falaj.errors import Transient
from falaj.protocols import readiness
from falaj.protocols.readiness import Identity, Readiness, reach
from falaj.region.database import Database
from falaj.region.snapshot import Snapshot
from falaj.region.store import Store
from falaj.trust.identity import Principal
from tests.protocols.conftest import Wires, manifest
from tests.protocols.serving import served

IDENTITY = Identity("local", "local-a", "AE", "http://127.0.0.1:7440", "http://127.0.0.1:7441", "0.1.0")
EVERYONE = Principal("tester", "k", None)


def looking(database: Database, site_dir: Path, **probes) -> Readiness:
    store = Store(database, KINDS)
    return Readiness(IDENTITY, KINDS, Snapshot(database, store), FileProcesses(site_dir), probes)


async def test_a_probe_that_fails_or_hangs_is_told_with_its_reason(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "PROBE_SECONDS_MAX", 0.2)

    async def fine() -> None:
        return None

    async def away() -> None:
        raise Transient("the store is away")

    async def frozen() -> None:
        await asyncio.sleep(60)

    checks = await looking(
        database, tmp_path, fine=fine, away=away, frozen=frozen, closed=lambda: reach("127.0.0.1", 1)
    ).checks()
    found = {check.name: check for check in checks}
    assert found["fine"].ready
    assert found["away"].message == "the store is away"
    assert "0.2 s" in found["frozen"].message
    assert not found["closed"].ready


async def test_probes_are_asked_at_most_twice_a_second_however_many_ask(database: Database, tmp_path: Path) -> None:
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1

    look = looking(database, tmp_path, count=count)
    await asyncio.gather(*(look.checks() for _ in range(50)))
    assert asked == 1


async def test_what_listens_can_be_reached() -> None:
    async def nothing(scope, receive, send) -> None:
        return None

    async with served(nothing) as port:
        await reach("127.0.0.1", port)
    with pytest.raises(ConnectionRefusedError):
        await reach("127.0.0.1", port)


async def test_the_status_names_every_process_of_this_machine_before_anything_is_declared(
    database: Database, tmp_path: Path
) -> None:
    FileProcesses(tmp_path).create(ProcessSpec("postgres", ("sleep", "1"), probe=Probe(5432)))
    status = await looking(database, tmp_path).status(EVERYONE)
    assert set(status) == {"region", "ready", "url", "s3_url", "version", "sites", "resources"}
    assert status["sites"] == [
        {
            "name": "local-a",
            "jurisdiction": "AE",
            "ready": False,
            "engines": [
                {
                    "name": "postgres",
                    "ready": False,
                    "pid": None,
                    "port": 5432,
                    "restarts": 0,
                    "message": "declared, not started yet",
                }
            ],
        }
    ]
    assert status["resources"]["Bucket"] == {"total": 0, "ready": 0}
    assert not status["ready"]


async def test_a_project_s_key_sees_its_own_resources_counted(wires: Wires) -> None:
    await wires.apply(manifest("Bucket", "a", "claims"), manifest("Bucket", "b", "other"))
    whole = (await wires.call("GET", "/falaj/v1/status")).json()["resources"]
    own = (await wires.call("GET", "/falaj/v1/status", key=wires.claims_key)).json()["resources"]
    assert (whole["Bucket"]["total"], own["Bucket"]["total"]) == (2, 1)
    assert (whole["Project"]["total"], own["Project"]["total"]) == (3, 1)


async def test_the_status_is_told_while_postgres_is_away(wires: Wires) -> None:
    await wires.apply(manifest("Bucket", "a", "claims"))
    await wires.call("GET", "/falaj/v1/status")  # the key is known from now on
    await wires.site.database.close()
    await asyncio.sleep(readiness.CACHE_SECONDS)
    answer = await wires.call("GET", "/falaj/v1/status")
    assert answer.status == 200
    assert answer.json()["resources"]["Bucket"]["total"] == 1
    checks = (await wires.call("GET", "/readyz", key="")).json()["checks"]
    assert not next(check for check in checks if check["name"] == "postgres")["ready"]
