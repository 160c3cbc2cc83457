"""What every engine behind ``Processes`` must do."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from falaj.engines.interface import Probe, Processes, ProcessSpec
from falaj.errors import Conflict
from tests.sites import Site, sleeper, until


@pytest.fixture(scope="module", params=["files"])
def processes() -> Iterator[Processes]:
    site = Site()
    site.start()
    yield site.processes
    site.remove()


def ready(processes: Processes, name: str) -> bool:
    state = processes.observe(name)
    return state is not None and state.ready


def test_what_is_neither_declared_nor_running_is_none(processes: Processes) -> None:
    assert processes.observe("nobody") is None
    assert "nobody" not in processes.observe_all()


def test_a_declared_process_is_seen_at_once_and_becomes_ready(processes: Processes) -> None:
    processes.create(sleeper("a"))
    assert processes.observe("a") is not None
    until(lambda: ready(processes, "a"))
    state = processes.observe_all()["a"]
    assert state.pid
    assert state.started_at is not None
    assert state.started_at.tzinfo is not None


def test_a_process_with_a_probe_is_ready_only_when_it_answers(processes: Processes) -> None:
    port = processes.allocate_port("web")
    script = f"import time; time.sleep(1); from http.server import test; test(port={port}, bind='127.0.0.1')"
    processes.create(ProcessSpec("web", (sys.executable, "-c", script), probe=Probe(port), ports=(port,)))
    until(lambda: (state := processes.observe("web")) and state.pid)
    state = processes.observe("web")
    assert state is not None
    assert not state.ready
    assert state.port == port
    until(lambda: ready(processes, "web"))


def test_declaring_the_same_changes_nothing_and_another_restarts(processes: Processes) -> None:
    processes.create(sleeper("b"))
    until(lambda: ready(processes, "b"))
    first = processes.observe("b")
    processes.create(sleeper("b"))
    assert processes.observe("b") == first
    processes.create(sleeper("b", environment={"A": "1"}))
    assert not ready(processes, "b")
    until(lambda: ready(processes, "b"))
    second = processes.observe("b")
    assert first is not None
    assert second is not None
    assert second.pid != first.pid


def test_withdrawing_stops_and_is_idempotent(processes: Processes) -> None:
    processes.create(sleeper("c"))
    until(lambda: ready(processes, "c"))
    processes.delete("c")
    processes.delete("c")
    until(lambda: processes.observe("c") is None)


def test_a_port_is_stable_and_a_taken_preferred_one_a_conflict(processes: Processes) -> None:
    port = processes.allocate_port("d")
    assert processes.allocate_port("d") == port
    other = processes.allocate_port("e")
    with pytest.raises(Conflict):
        processes.allocate_port("d", other)
