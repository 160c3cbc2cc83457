"""`falaj up` and `falaj down` on a real region: again, at once, against taken ports, over what was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from falaj.engines.supervisor import procfs
from tests.postgres import free_port
from tests.sites import Region, until

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def region() -> Iterator[Region]:
    """A region that is up before each test that wants it so; tests put it back."""
    made = Region()
    made.falaj("up")
    yield made
    made.remove()


def processes_of(region: Region) -> list[psutil.Process]:
    """Every process that names the region's folder."""
    everyone = psutil.process_iter(["cmdline"])
    return [each for each in everyone if any(str(region.home) in word for word in each.info["cmdline"] or ())]


def test_up_leaves_a_ready_region_that_outlives_the_command(region: Region) -> None:
    assert region.ready()
    status = json.loads(region.falaj("status", "--json"))
    assert status["ready"]
    (site,) = status["sites"]
    assert {engine["name"] for engine in site["engines"]} >= {"postgres", "seaweedfs", "gateway", "control"}
    assert all(engine["ready"] for engine in site["engines"])


def test_up_again_changes_nothing(region: Region) -> None:
    before = {name: state.pid for name, state in region.site.processes.observe_all().items()}
    said = json.loads(region.falaj("up", "--json"))
    assert said["already_running"]
    assert {name: state.pid for name, state in region.site.processes.observe_all().items()} == before


def test_nothing_of_it_hangs_on_a_terminal_or_the_callers_folder(region: Region) -> None:
    site = region.site
    for pid in (site.keeper_pid(), site.supervisor_pid(), site.pid("gateway")):
        assert pid is not None
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
        assert os.readlink(f"/proc/{pid}/cwd") == str(site.folder)
        seen = procfs.stat(pid)
        assert seen is not None
        assert seen.session == pid


def test_no_secret_is_in_any_command_line(region: Region) -> None:
    secrets = [path.read_text().strip() for path in (region.home / "secrets").iterdir() if path.suffix != ".json"]
    secrets += json.loads((region.home / "secrets" / "s3-admin.json").read_text()).values()
    for process in processes_of(region):
        line = " ".join(process.cmdline())
        assert not any(secret in line for secret in secrets), line[:200]


def test_down_stops_everything_and_up_brings_the_data_back(region: Region) -> None:
    region.call("PUT", "/falaj/v1/projects/kept", json.dumps(project("kept")).encode())
    assert "stopped" in region.falaj("down")
    assert processes_of(region) == []
    assert not region.ready()
    assert "nothing runs" in region.falaj("down")
    started_at = time.monotonic()
    region.falaj("up")
    assert time.monotonic() - started_at < 60, "warm; the benchmark measures it on a quiet machine"
    assert json.loads(region.call("GET", "/falaj/v1/projects/kept"))["metadata"]["name"] == "kept"


def project(name: str) -> dict[str, object]:
    return {"apiVersion": "falaj/v1", "kind": "Project", "metadata": {"name": name}, "spec": {}}


def test_two_at_once_make_one_region(region: Region) -> None:
    region.falaj("down")
    with region.popen("up", "--json") as first, region.popen("up", "--json") as second:
        said = [json.loads(process.communicate(timeout=120)[0]) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert sorted(answer["already_running"] for answer in said) == [False, True]
    names = [" ".join(process.cmdline()) for process in processes_of(region)]
    assert sum("falaj.engines.supervisor --site-dir" in name for name in names) == 1
    assert sum("falaj.engines.supervisor.keeper --site-dir" in name for name in names) == 1


def test_up_heals_when_everything_of_falaj_was_killed_at_once(region: Region) -> None:
    """The engines go on, and are adopted rather than started beside themselves."""
    site = region.site
    postgres = site.pid("postgres")
    for pid in (site.keeper_pid(), site.supervisor_pid(), site.pid("gateway"), site.pid("control")):
        os.kill(pid or 0, signal.SIGKILL)
    region.falaj("up")
    assert region.ready()
    assert site.pid("postgres") == postgres


def test_a_killed_up_is_made_good_by_the_next() -> None:
    region = Region()
    try:
        with region.popen("up") as process:
            until(lambda: list(region.home.glob("sites/local-a/data/.postgres.*")), 60)
            os.killpg(process.pid, signal.SIGKILL)
        region.falaj("up")
        assert region.ready()
        assert "deleted" in region.falaj("down", "--delete-data", "--yes")
        assert not (region.home / "sites" / "local-a").exists()
        assert not (region.home / "secrets").exists()
        assert processes_of(region) == []
    finally:
        region.remove()


@pytest.mark.parametrize(("which", "flag"), [("port", "--port"), ("s3_port", "--s3-port")])
def test_a_taken_port_names_who_has_it_and_how_to_choose_another(which: str, flag: str) -> None:
    region = Region()
    port = getattr(region, which)
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as foreign:
        until(lambda: any(c.laddr.port == port for c in psutil.Process(foreign.pid).net_connections("tcp")))
        said = region.falaj("up", code=5)
        assert f"port {port} is taken by process {foreign.pid}" in said
        assert flag in said
        assert foreign.poll() is None
        foreign.kill()
    region.remove()


def test_changed_settings_are_taken_over(region: Region) -> None:
    before, port = region.port, free_port()
    said = json.loads(region.falaj("up", "--port", str(port), "--json"))
    assert said["url"].endswith(f":{port}")
    region.port = port
    assert region.ready()
    region.port = before
    assert not region.ready()
    region.falaj("up")
    assert region.ready()


def test_not_ready_in_time_names_the_process_and_its_last_words(tmp_path: Path) -> None:
    region = Region()
    try:
        assert "not ready in 1 s" in region.falaj("up", "--timeout", "1s", code=7)
        region.falaj("down")
        # A Postgres that cannot start: its data folder is damaged.
        (region.home / "sites/local-a/data/postgres/PG_VERSION").write_text("7\n")
        said = region.falaj("up", "--timeout", "4s", code=7)
        assert "postgres is backoff" in said
        assert "data directory" in said
        assert "falaj logs postgres" in said
    finally:
        region.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="a read-only mount needs root")
def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount")
    try:
        region = Region()
        region.environment["FALAJ_HOME"] = str(tmp_path / "home")
        said = region.falaj("up", code=4)
        assert "cannot be written" in said
        assert "Read-only file system" in said
        assert "--home" in said
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
