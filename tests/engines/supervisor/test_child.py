"""One process under the supervisor, step by step, without the loop around it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from falaj.engines.interface import ProcessSpec
from falaj.engines.supervisor import procfs
from falaj.engines.supervisor.child import BACKOFF_SECONDS_MAX, Child
from falaj.engines.supervisor.processes import digest, encode_spec, read_record
from tests.sites import Site, sleeper, until


def declared(site: Site, spec: ProcessSpec) -> Child:
    child = Child(spec.name, site.folder)
    child.declare(spec, digest(encode_spec(spec)))
    return child


def gone(child: Child, now: float) -> bool:
    child.look(now)
    return not child.running


def end(child: Child) -> None:
    child.stop(0)
    until(lambda: gone(child, float("inf")))


def test_a_record_is_enough_to_adopt_and_a_wrong_start_time_is_not(site: Site) -> None:
    child = declared(site, sleeper("a"))
    child.start_when_due(1)
    record = read_record(site.files.state / "a.json")
    assert record is not None
    assert record.pid is not None
    assert procfs.alive(record.pid, record.start_ticks or 0)
    second = Child("a", site.folder)
    assert second.adopt(record)
    end(second)
    assert not Child("a", site.folder).adopt(record)
    child.look(1)


def test_backoff_doubles_to_its_limit(site: Site) -> None:
    child = declared(site, ProcessSpec("a", ("/nowhere/at-all",)))
    now, waits = 1000.0, []
    for _ in range(8):
        child.start_when_due(now)
        waits.append(child.start_not_before - now)
        now = child.start_not_before
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MAX])


def test_a_life_line_that_is_held_keeps_a_second_copy_from_starting(site: Site) -> None:
    child = declared(site, sleeper("a"))
    child.start_when_due(1)
    record = read_record(site.files.state / "a.json")
    assert record is not None
    other = declared(site, sleeper("a"))
    other.start_when_due(1)
    assert not other.running
    assert other.phase == "backoff"
    # The holder was ended for it; now the way is free.
    until(lambda: not procfs.alive(record.pid or 0, record.start_ticks or 0))
    until(lambda: other.start_when_due(time.monotonic() + 100) or other.running)
    child.look(1)
    end(other)


def test_the_process_gets_its_environment_folder_log_and_no_stdin(site: Site, tmp_path: Path) -> None:
    argv = ("/bin/sh", "-c", "pwd; echo $WHAT; readlink /proc/$$/fd/0; exec sleep 600")
    child = declared(site, ProcessSpec("a", argv, environment={"WHAT": "water"}, directory=str(tmp_path)))
    child.start_when_due(1)
    log = site.files.logs / "a.log"
    until(lambda: log.read_text().count("\n") == 3)
    assert log.read_text().split() == [str(tmp_path), "water", "/dev/null"]
    end(child)


@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT"])
def test_each_stop_signal_reaches_the_process(site: Site, name: str) -> None:
    heard = site.folder / "heard"
    script = f"trap 'echo heard > {heard}; exit 0' {name}; echo ready; while :; do sleep 0.02; done"
    child = declared(site, ProcessSpec("a", ("/bin/sh", "-c", script), stop_signal=name))  # type: ignore[arg-type]
    child.start_when_due(1)
    until(lambda: "ready" in (site.files.logs / "a.log").read_text())
    child.stop(1)
    until(lambda: gone(child, 2))
    assert heard.read_text() == "heard\n"
    assert child.phase == "stopped"


def test_a_frozen_process_is_killed_when_its_time_is_over(site: Site) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.02; done"
    child = declared(site, ProcessSpec("a", ("/bin/sh", "-c", script), stop_timeout_seconds=5))
    child.start_when_due(1)
    until(lambda: "ready" in (site.files.logs / "a.log").read_text())
    record = read_record(site.files.state / "a.json")
    assert record is not None
    assert record.pid is not None
    os.kill(record.pid, signal.SIGSTOP)
    child.stop(10)
    child.look(14)
    assert child.running
    child.look(15.1)
    until(lambda: gone(child, 15.2))
