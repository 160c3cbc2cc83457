"""Starting, stopping and knowing whether somebody runs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from falaj.engines.supervisor import control
from tests.sites import Site, sleeper, until


def test_a_lock_is_held_by_one_and_ends_with_its_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not control.is_locked(path)
    held = control.take_lock(path)
    assert held is not None
    assert control.take_lock(path) is None
    assert control.is_locked(path)
    assert control.lock_holder(path) == os.getpid()
    os.close(held)
    assert not control.is_locked(path)
    assert control.lock_holder(path) is None


def test_folders_are_private(site: Site) -> None:
    for folder in (site.files.processes, site.files.state, site.files.logs):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_starting_twice_changes_nothing(running_site: Site) -> None:
    pids = running_site.keeper_pid(), running_site.supervisor_pid()
    assert not control.ensure_running(running_site.files)
    assert (running_site.keeper_pid(), running_site.supervisor_pid()) == pids


def test_starting_at_the_same_time_leaves_one_of_each(site: Site) -> None:
    threads = [threading.Thread(target=control.ensure_running, args=(site.files,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(site.supervisor_pid)
    assert (site.files.logs / "supervisor.log").read_text().count("supervisor started") == 1


def test_stopping_without_a_supervisor_still_stops_what_runs(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    running_site.kill_keeper()
    running_site.kill_supervisor()
    control.request_stop(running_site.files)
    assert control.wait_until_stopped(running_site.files, 20)
    state = running_site.processes.observe("a")
    assert state is not None
    assert state.phase == "stopped"


def test_starting_again_after_a_stop(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    pid = running_site.pid("a")
    running_site.stop()
    running_site.start()
    assert running_site.ready("a", not_pid=pid).restarts == 0


def test_settings_of_whoever_starts_do_not_stay_in_the_environment(site: Site) -> None:
    os.environ["FALAJ_PORT"] = "1"
    try:
        site.start()
    finally:
        del os.environ["FALAJ_PORT"]
    environment = Path(f"/proc/{site.supervisor_pid()}/environ").read_bytes()
    assert b"FALAJ_PORT" not in environment


def test_the_limit_of_a_log_is_read_from_its_file(site: Site) -> None:
    assert site.files.log_bytes_max() == control.LOG_BYTES_MAX
    site.files.settings.write_text('{"log_bytes_max": 70000}')
    assert site.files.log_bytes_max() == 70000
    site.files.settings.write_text("{")
    assert site.files.log_bytes_max() == control.LOG_BYTES_MAX
