"""Models and endpoints under the real kernel, supervisor and engines: declared, converged, broken, repaired."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from falaj.engines.e5.driver import E5
from falaj.engines.interface import ReplicaSpec
from falaj.engines.llamacpp.driver import LlamaCpp
from falaj.engines.supervisor.processes import FileProcesses
from falaj.errors import Conflict
from falaj.region.admission import Admission
from falaj.region.controller import SiteController
from falaj.region.database import Database
from falaj.region.kinds import EngineStatus
from falaj.region.reconciler import Reconciler
from falaj.region.resource import Key, Resource
from falaj.region.store import Store
from falaj.services.models.controller import EndpointController, ModelController
from falaj.services.models.pull import Puller
from falaj.trust.identity import Principal
from tests.services.models.sources import CONTENT, HUB_SOURCES, SHA256, Hub
from tests.supervised import kill, supervised_site, until

ADMIN = Principal(name="admin", key_id="", project=None)
E5_MODEL = Key("Model", "", "e5")
TINY = Key("Model", "", "tiny")
ENDPOINT = Key("Endpoint", "system", "e5")


class Region:
    """What a test declares to and looks at."""

    def __init__(self, admission: Admission, store: Store) -> None:
        self._admission = admission
        self.store = store

    async def apply(self, key: Key, **spec: Any) -> None:
        metadata = {"name": key.name} | ({"project": key.project} if key.project else {})
        manifest = {"apiVersion": "falaj/v1", "kind": key.kind, "metadata": metadata, "spec": spec}
        await self._admission.apply(ADMIN, [manifest])

    async def delete(self, key: Key) -> None:
        await self._admission.delete(ADMIN, key)

    async def get(self, key: Key) -> Resource:
        return await self.store.get(key)

    async def until(self, key: Key, holds: Callable[[Resource], object], what: str, *, seconds: float = 60) -> Resource:
        async def look() -> bool:
            return bool(holds(await self.store.get(key)))

        await until(look, f"{key} {what}", seconds=seconds)
        return await self.store.get(key)

    async def until_reason(self, key: Key, reason: str) -> Resource:
        return await self.until(key, lambda r: (c := r.status.condition()) and c.reason == reason, reason)

    async def until_gone(self, key: Key) -> None:
        async def gone() -> bool:
            return await self.store.find(key) is None

        await until(gone, f"{key} gone")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[FileProcesses]:
    with supervised_site(tmp_path / "site") as started:
        yield started


@pytest.fixture
def puller(tmp_path: Path, hub: Hub) -> Puller:
    return Puller(tmp_path / "models", hub_url=hub.url)


@pytest.fixture
async def region(
    database: Database, store: Store, admission: Admission, processes: FileProcesses, puller: Puller, tmp_path: Path
) -> AsyncIterator[Region]:
    key_file = tmp_path / "replica.key"
    controllers = [
        SiteController("local-a", lambda: [EngineStatus(name="postgres", ready=True)], lambda _: True),
        ModelController(puller),
        EndpointController(store, {"llamacpp": LlamaCpp(processes, key_file), "e5": E5(processes, key_file)}),
    ]
    stop = asyncio.Event()
    reconciler = Reconciler(database, store, controllers, concurrency=8, holder="test")
    running = asyncio.create_task(reconciler.run(stop))
    yield Region(admission, store)
    stop.set()
    await running


def _tiny(**fields: Any) -> dict[str, Any]:
    given = {"filename": "tiny.gguf", "sha256": SHA256, "size_bytes": len(CONTENT), "sources": HUB_SOURCES}
    return given | fields


async def test_a_pull_shows_its_progress_and_ends_verified(region: Region, hub: Hub) -> None:
    hub.gate = threading.Event()
    await region.apply(TINY, **_tiny())
    half = await region.until(TINY, lambda r: 0 < r.status.bytes_done < len(CONTENT), "half pulled")
    assert half.status.condition().reason == "Pulling"
    assert (half.status.source, half.status.bytes_total) == ("hub", len(CONTENT))
    hub.gate.set()
    done = await region.until_reason(TINY, "Verified")
    assert Path(done.status.path).read_bytes() == CONTENT
    assert (done.status.sha256, done.status.bytes_done) == (SHA256, len(CONTENT))
    reasons = [event.reason for event in await region.store.events(key=TINY)]
    assert reasons[-2:] == ["Pulling", "Verified"]


async def test_a_file_that_changes_under_a_ready_model_is_pulled_again(
    region: Region, hub: Hub, tmp_path: Path
) -> None:
    await region.apply(TINY, **_tiny())
    ready = await region.until_reason(TINY, "Verified")
    Path(ready.status.path).write_bytes(b"GGUF but not the one")
    await region.store.touch(TINY)
    await region.until(TINY, lambda _: len(hub.asked) == 2, "pulled again")
    await region.until_reason(TINY, "Verified")
    assert Path(ready.status.path).read_bytes() == CONTENT
    assert (tmp_path / "models" / "quarantine" / "tiny.gguf").exists()


async def test_wrong_bytes_are_reported_and_never_become_ready(region: Region, hub: Hub) -> None:
    hub.content = bytes(len(CONTENT))
    await region.apply(TINY, **_tiny())
    wrong = await region.until_reason(TINY, "WrongHash")
    assert not wrong.status.ready
    assert wrong.status.path == ""
    hub.content = CONTENT
    await region.apply(TINY, **_tiny(licence="MIT"))  # a change of the spec is a reason to try again
    await region.until_reason(TINY, "Verified")


async def test_an_unreachable_source_is_named(region: Region, hub: Hub) -> None:
    hub.status = 404
    await region.apply(TINY, **_tiny())
    failed = await region.until_reason(TINY, "NoSource")
    assert hub.url in failed.status.condition().message


async def test_deleting_a_model_in_mid_pull_stops_it(region: Region, hub: Hub, tmp_path: Path) -> None:
    hub.gate = threading.Event()
    hub.cuts = [len(CONTENT)] * 9
    await region.apply(TINY, **_tiny())
    await region.until(TINY, lambda r: r.status.bytes_done, "begun")
    await region.delete(TINY)
    hub.gate.set()
    await region.until_gone(TINY)
    assert {path.name for path in (tmp_path / "models").iterdir()} <= {"tiny.gguf.lock", "tiny.gguf", "tiny.gguf.json"}


async def test_an_endpoint_lives_from_declaration_to_deletion(region: Region, processes: FileProcesses) -> None:
    await region.apply(ENDPOINT, model="e5", threads=1)
    await region.until_reason(ENDPOINT, "NotFound")
    await region.apply(E5_MODEL, catalogue="multilingual-e5-small")
    ready = await region.until_reason(ENDPOINT, "ReplicasReady")
    assert (ready.status.site, ready.status.task, ready.status.engine) == ("local-a", "embeddings", "e5")
    (first,) = ready.status.replicas
    assert first.ready
    assert first.url.startswith("http://127.0.0.1:")

    await region.apply(ENDPOINT, model="e5", threads=1, replicas=2)
    both = await region.until(ENDPOINT, lambda r: len(r.status.replicas) == 2 and r.status.ready, "scaled up")
    assert both.status.replicas[0].pid == first.pid, "scaling up restarted what ran"

    kill(first.pid)
    await region.until(
        ENDPOINT,
        lambda r: all(x.ready for x in r.status.replicas) and r.status.replicas[0].pid not in {first.pid, None},
        "whole again after kill -9",
    )

    await region.apply(ENDPOINT, model="e5", threads=1, replicas=0)
    await region.until_reason(ENDPOINT, "ScaledToZero")

    async def stopped() -> bool:
        return processes.observe_all() == {}

    await until(stopped, "both replicas stopped")

    await region.apply(ENDPOINT, model="e5", threads=1, replicas=1)
    await region.until_reason(ENDPOINT, "ReplicasReady")
    with pytest.raises(Conflict):
        await region.delete(E5_MODEL)
    await region.delete(ENDPOINT)
    await region.until_gone(ENDPOINT)
    assert processes.observe_all() == {}


async def test_an_endpoint_waits_for_its_model_and_starts_by_itself(region: Region, hub: Hub) -> None:
    hub.gate = threading.Event()
    endpoint = Key("Endpoint", "system", "tiny")
    await region.apply(TINY, **_tiny())
    await region.apply(endpoint, model="tiny", context_tokens_max=256)
    await region.until_reason(endpoint, "WaitingForModel")
    hub.gate.set()
    refused = await region.until_reason(endpoint, "Terminal")  # the bytes are right, but they are no GGUF
    assert "not in GGUF format" in refused.status.condition().message


async def test_a_context_beyond_the_models_is_refused_with_both_numbers(region: Region) -> None:
    endpoint = Key("Endpoint", "system", "tiny")
    await region.apply(TINY, **_tiny(context_tokens_max=2048))
    await region.apply(endpoint, model="tiny", context_tokens_max=4096)
    refused = await region.until_reason(endpoint, "Terminal")
    assert "4096" in refused.status.condition().message
    assert "2048" in refused.status.condition().message


async def test_replicas_without_an_endpoint_are_stopped(
    region: Region, processes: FileProcesses, tmp_path: Path
) -> None:
    await E5(processes, tmp_path / "replica.key").create(ReplicaSpec("gone.endpoint.0", None, "e5"))
    await region.apply(E5_MODEL, catalogue="multilingual-e5-small")
    await region.apply(ENDPOINT, model="e5", threads=1)
    await region.until_reason(ENDPOINT, "ReplicasReady")
    assert list(processes.observe_all()) == ["model-e5-system.e5.0"]


async def test_endpoints_whose_names_run_together_are_kept_apart(region: Region, processes: FileProcesses) -> None:
    endpoints = [("a-b", "c"), ("a", "b-c"), ("a", "b-c.0")]
    await region.apply(E5_MODEL, catalogue="multilingual-e5-small")
    for project in ("a", "a-b"):
        await region.apply(Key("Project", "", project))
    for project, name in endpoints:
        await region.apply(Key("Endpoint", project, name), model="e5", threads=1)
    for project, name in endpoints:
        await region.until_reason(Key("Endpoint", project, name), "ReplicasReady")
    await region.delete(Key("Endpoint", "a", "b-c"))
    await region.until_gone(Key("Endpoint", "a", "b-c"))
    assert set(processes.observe_all()) == {"model-e5-a-b.c.0", "model-e5-a.b-c.0.0"}


@pytest.mark.model
async def test_a_gguf_model_is_served_and_a_damaged_replica_says_so(
    region: Region, small_model: Path, tmp_path: Path
) -> None:
    endpoint = Key("Endpoint", "system", "small")
    await region.apply(
        Key("Model", "", "small"),
        catalogue="qwen2.5-coder-0.5b-instruct",
        sources={"files": [{"file": str(small_model)}]},
    )
    await region.apply(endpoint, model="small", context_tokens_max=256, concurrency_max=1)
    ready = await region.until_reason(endpoint, "ReplicasReady")
    assert (ready.status.engine, ready.status.task) == ("llamacpp", "chat")

    file = tmp_path / "models" / small_model.name
    with file.open("r+b") as content:
        content.truncate(20 << 20)
    kill(ready.status.replicas[0].pid)
    failing = await region.until_reason(endpoint, "Starting")
    assert not failing.status.replicas[0].ready
