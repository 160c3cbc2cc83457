"""What every ``ReplicaEngine`` must do, under a real supervisor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from falaj.engines.e5.driver import E5
from falaj.engines.interface import ReplicaEngine, ReplicaSpec, ReplicaState
from falaj.engines.llamacpp.driver import LlamaCpp
from falaj.engines.supervisor.processes import FileProcesses
from tests.supervised import kill, supervised_site, until

NAME = "system.tested.0"


@dataclass
class Case:
    """An engine and a way to make replicas of it."""

    engine: ReplicaEngine
    spec: ReplicaSpec
    again: Callable[[], ReplicaEngine]
    """A second driver on the same site, as another process would have."""

    async def state(self) -> ReplicaState:
        found = await self.engine.observe(NAME)
        assert found is not None
        return found

    async def ready(self) -> bool:
        found = await self.engine.observe(NAME)
        return found is not None and found.ready


def _llamacpp(processes: FileProcesses, key_file: Path, model: Path) -> Case:
    spec = ReplicaSpec(NAME, model, "small", context_tokens_max=256, concurrency_max=1, threads=1)
    return Case(LlamaCpp(processes, key_file), spec, lambda: LlamaCpp(processes, key_file))


def _e5(processes: FileProcesses, key_file: Path) -> Case:
    return Case(E5(processes, key_file), ReplicaSpec(NAME, None, "e5", threads=1), lambda: E5(processes, key_file))


@pytest.fixture(params=[pytest.param("llamacpp", marks=pytest.mark.model), "e5"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with supervised_site(tmp_path / "site") as processes:
        key_file = tmp_path / "secrets" / "replica.key"
        if request.param == "llamacpp":
            yield _llamacpp(processes, key_file, request.getfixturevalue("small_model"))
        else:
            yield _e5(processes, key_file)


async def test_a_replica_lives_from_create_to_delete(case: Case) -> None:
    assert await case.engine.observe(NAME) is None
    assert await case.engine.list() == []
    await case.engine.delete(NAME)

    await case.engine.create(case.spec)
    assert await case.engine.list() == [NAME]
    await until(case.ready, "ready")
    first = await case.state()
    assert first.url.startswith("http://127.0.0.1:")

    await case.engine.create(case.spec)
    await case.again().create(case.spec)
    assert await case.state() == first, "creating the same again changed something"

    kill(first.pid)

    async def back() -> bool:
        state = await case.state()
        return state.ready and state.pid != first.pid

    await until(back, "ready again after kill -9")
    second = await case.state()
    assert second.url == first.url

    await case.engine.update(replace(case.spec, alias="renamed"))

    async def renamed() -> bool:
        state = await case.state()
        return state.ready and state.pid not in {second.pid, None}

    await until(renamed, "running with the new spec")

    await case.engine.delete(NAME)

    async def gone() -> bool:
        return await case.engine.observe(NAME) is None

    await until(gone, "gone")
    assert await case.engine.list() == []
    await case.engine.delete(NAME)
