"""The supervisor converges on files, and heals whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from falaj.engines.interface import Probe, ProcessSpec
from falaj.engines.supervisor import procfs
from falaj.engines.supervisor.processes import read_record
from tests.sites import Site, sleeper, until

pytestmark = pytest.mark.timeout(90)


def test_a_killed_process_comes_back_and_is_counted(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    killed = running_site.kill("a")
    state = running_site.ready("a", not_pid=killed, seconds=5)
    assert state.restarts == 1


def test_a_killed_supervisor_is_restarted_and_adopts_what_runs(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    before = running_site.pid("a")
    supervisor = running_site.kill_supervisor()
    until(lambda: running_site.supervisor_pid() not in {None, supervisor})
    assert running_site.pid("a") == before
    # It watches what it adopted, although it is not its parent.
    os.kill(before, signal.SIGKILL)
    assert running_site.ready("a", not_pid=before).pid != before


def test_a_killed_keeper_is_restarted(running_site: Site) -> None:
    keeper = running_site.kill_keeper()
    until(lambda: running_site.keeper_pid() not in {None, keeper})


def test_when_both_are_killed_the_next_start_adopts(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    before = running_site.pid("a")
    running_site.kill_keeper()
    running_site.kill_supervisor()
    running_site.start()
    assert running_site.ready("a").pid == before


def test_what_was_withdrawn_while_nobody_looked_is_stopped(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    pid = running_site.pid("a")
    running_site.kill_keeper()
    running_site.kill_supervisor()
    running_site.processes.delete("a")
    running_site.start()
    until(lambda: procfs.stat(pid) is None or procfs.stat(pid).zombie)  # type: ignore[union-attr]
    until(lambda: running_site.processes.observe("a") is None)


def test_a_stale_record_with_a_reused_pid_signals_nobody(site: Site) -> None:
    """After a reboot the pid in a record may be anybody's: here it is this very test's."""
    stale = {
        "name": "a", "phase": "ready", "pid": os.getpid(), "start_ticks": 1, "port": None, "restarts": 3,
        "message": "", "started_at": 1.0, "digest": "of another time", "stop_signal": "TERM",
        "stop_timeout_seconds": 0.1, "order": 50,
    }  # fmt: skip
    (site.files.state / "a.json").write_text(json.dumps(stale))
    site.processes.create(sleeper("a"))
    site.start()
    assert site.ready("a").pid != os.getpid()
    site.processes.delete("a")
    until(lambda: site.processes.observe("a") is None)


def test_a_process_started_twice_over_is_not_possible(site: Site) -> None:
    """A supervisor that died between start and record leaves a process that nobody knows; it is ended, not doubled."""
    marker = site.folder / "marker"
    argv = ("/bin/sh", "-c", f"echo $$ >> {marker}; exec sleep 600")
    site.start()
    site.run(ProcessSpec("a", argv))
    unknown = site.pid("a")
    site.kill_keeper()
    site.kill_supervisor()
    (site.files.state / "a.json").unlink()
    site.start()
    assert site.ready("a", not_pid=unknown).pid != unknown
    until(lambda: procfs.stat(unknown) is None or procfs.stat(unknown).zombie)  # type: ignore[union-attr]


def test_children_go_with_their_process_even_from_a_session_of_their_own(running_site: Site) -> None:
    pids = running_site.folder / "pids"
    script = f"setsid sleep 600 & echo $! >> {pids}; sleep 600 & echo $! >> {pids}; echo done >> {pids}; exec sleep 600"
    running_site.run(ProcessSpec("parent", ("/bin/sh", "-c", script)))
    until(lambda: pids.exists() and "done" in pids.read_text())
    children = [int(word) for word in pids.read_text().split()[:2]]
    killed = running_site.kill("parent")
    running_site.ready("parent", not_pid=killed)
    for child in children:
        seen = procfs.stat(child)
        assert seen is None or seen.zombie, f"{child} outlived its process"


def test_a_changed_declaration_restarts_and_the_same_does_not(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    first = running_site.pid("a")
    running_site.processes.create(sleeper("a"))
    time.sleep(0.6)
    assert running_site.pid("a") == first
    running_site.processes.create(sleeper("a", environment={"MORE": "1"}))
    assert running_site.ready("a", not_pid=first).restarts == 0


def test_a_crash_loop_backs_off_and_says_why(running_site: Site) -> None:
    running_site.processes.create(ProcessSpec("a", ("/bin/sh", "-c", "echo out of olives; exit 3")))
    state = until(lambda: (s := running_site.processes.observe("a")) and s.restarts >= 3 and s)
    assert state.phase == "backoff"
    assert "exit status 3" in state.message
    assert "out of olives" in state.message
    started = (running_site.files.logs / "a.log").read_text().count("olives")
    time.sleep(1.0)  # the fourth wait is 1.6 s
    assert (running_site.files.logs / "a.log").read_text().count("olives") <= started + 1


def test_what_cannot_be_started_says_why(running_site: Site) -> None:
    running_site.processes.create(ProcessSpec("a", ("/nowhere/at-all",)))
    state = until(lambda: (s := running_site.processes.observe("a")) and s.phase == "backoff" and s)
    assert "/nowhere/at-all" in state.message


def test_stopping_goes_in_reverse_order_and_ends_by_force_what_does_not_hear(running_site: Site) -> None:
    ended = running_site.folder / "ended"
    polite = "trap 'echo {0} >> " + str(ended) + "; exit 0' TERM; while :; do sleep 0.05; done"
    deaf = "trap '' TERM; while :; do sleep 0.05; done"
    running_site.run(
        ProcessSpec("first", ("/bin/sh", "-c", polite.format("first")), order=1),
        ProcessSpec("second", ("/bin/sh", "-c", polite.format("second")), order=2),
        ProcessSpec("deaf", ("/bin/sh", "-c", deaf), order=3, stop_timeout_seconds=0.5),
    )
    time.sleep(0.3)  # until the shells have set their traps
    pids = [running_site.pid(name) for name in ("first", "second", "deaf")]
    running_site.stop()
    assert ended.read_text().split() == ["second", "first"]
    assert all((seen := procfs.stat(pid)) is None or seen.zombie for pid in pids)
    states = running_site.processes.observe_all()
    assert {state.phase for state in states.values()} == {"stopped"}


def test_a_frozen_process_is_not_ready_and_can_be_stopped(running_site: Site) -> None:
    port = running_site.processes.allocate_port("web")
    argv = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    running_site.run(ProcessSpec("web", argv, probe=Probe(port, "/", timeout_seconds=0.3), stop_timeout_seconds=2.0))
    os.kill(running_site.pid("web"), signal.SIGSTOP)
    until(lambda: (s := running_site.processes.observe("web")) and not s.ready, 15)
    running_site.processes.delete("web")
    until(lambda: running_site.processes.observe("web") is None)


def test_logs_survive_the_supervisor_and_are_rotated_while_they_are_written(running_site: Site) -> None:
    running_site.files.settings.write_text('{"log_bytes_max": 65536}')
    script = "import itertools,time\nfor i in itertools.count():\n print(i, '.' * 80, flush=True)\n time.sleep(0.0005)"
    running_site.run(ProcessSpec("talker", (sys.executable, "-c", script)))
    pid = running_site.pid("talker")
    running_site.kill_supervisor()
    log = running_site.files.logs / "talker.log"
    until((log.parent / "talker.log.1").exists, 15)
    assert running_site.pid("talker") == pid, "a killed supervisor broke its pipe"
    old = (log.parent / "talker.log.1").read_text().splitlines()
    numbers = [int(line.split()[0]) for line in old[1:-1]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "lines were lost within a log"
    until(lambda: log.stat().st_size > 1000)
    first = int(log.read_text().splitlines()[1].split()[0])
    assert 0 < first - int(old[-1].split()[0] or 0) < 20, "more was lost than the moment of truncation"


def test_a_declaration_that_cannot_be_read_leaves_what_runs(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    pid = running_site.pid("a")
    path = running_site.files.processes / "a.json"
    path.write_text("{")
    time.sleep(0.8)
    record = read_record(running_site.files.state / "a.json")
    assert record is not None
    assert record.pid == pid
    assert "cannot be read" in (running_site.files.logs / "supervisor.log").read_text()


def test_a_second_supervisor_leaves_at_once(running_site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "falaj.engines.supervisor", "--site-dir", str(running_site.folder)],
        timeout=20,
        check=False,
    )
    assert done.returncode == 0
    assert running_site.supervisor_pid() is not None


def test_sigterm_stops_everything_as_a_machine_that_shuts_down_does(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    pid = running_site.pid("a")
    os.kill(until(running_site.supervisor_pid), signal.SIGTERM)
    until(lambda: running_site.supervisor_pid() is None and running_site.keeper_pid() is None)
    assert (seen := procfs.stat(pid)) is None or seen.zombie


def test_many_declarations_at_once(running_site: Site) -> None:
    threads = [
        threading.Thread(target=running_site.processes.create, args=(sleeper(f"p{number}"),)) for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(20):
        running_site.ready(f"p{number}")
