"""The keeper restarts a supervisor and leaves with it."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.sites import Site, until

KEEPER = [sys.executable, "-m", "falaj.engines.supervisor.keeper"]


def test_the_keeper_leaves_once_the_site_has_stopped(running_site: Site) -> None:
    running_site.stop()
    assert running_site.keeper_pid() is None


def test_a_second_keeper_leaves_at_once(running_site: Site) -> None:
    first = running_site.keeper_pid()
    done = subprocess.run(
        [sys.executable, "-m", "falaj.engines.supervisor.keeper", "--site-dir", str(running_site.folder)],
        timeout=20,
        check=False,
    )
    assert done.returncode == 0
    assert running_site.keeper_pid() == first


def test_it_stays_small(running_site: Site) -> None:
    """Both run for as long as the machine does; the numbers leave some room above what was measured (12 and 22 MB)."""
    time.sleep(0.5)
    for pid, limit_mb in ((running_site.keeper_pid(), 16), (running_site.supervisor_pid(), 28)):
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            resident_kb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        assert resident_kb < limit_mb * 1024


def test_a_supervisor_that_dies_again_and_again_is_restarted_each_time(running_site: Site) -> None:
    for _ in range(2):
        killed = running_site.kill_supervisor()
        until(lambda killed=killed: running_site.supervisor_pid() not in {None, killed})  # type: ignore[misc]


def test_wrong_arguments_are_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "falaj.engines.supervisor.keeper"],
        timeout=20,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "usage:" in done.stderr
