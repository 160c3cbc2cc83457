"""Each process by itself, then both in a region whose engines are killed under them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import urllib3

from falaj import app
from falaj.cli import home
from falaj.engines.supervisor.processes import FileProcesses
from falaj.settings import Settings
from tests.running import RunningRegion, free_port, wait_for

API = "/falaj/v1"
RSS_BYTES_MAX = 90_000_000
REGION_RSS_BYTES_MAX = 800_000_000


def test_every_kind_has_one_controller(tmp_path: Path) -> None:
    settings = made_home(tmp_path)
    kinds = [controller.kind for controller in app.controllers(app.build(settings, "control"))]
    assert sorted(kinds) == sorted(kind.name for kind in app.KINDS)


# --- one process, nothing else running -------------------------------------------------------------------------------


def made_home(folder: Path) -> Settings:
    """What ``falaj up`` leaves before it starts anything: folders, secrets, ports where nothing listens."""
    settings = Settings(home=folder, port=free_port(), s3_port=free_port())
    home.make(settings)
    processes = FileProcesses(settings.site_dir)
    for purpose in ("postgres", "gateway"):
        processes.allocate_port(purpose)
    return settings


def start(settings: Settings, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    own = {
        "FALAJ_HOME": str(settings.home),
        "FALAJ_PORT": str(settings.port),
        "FALAJ_S3_PORT": str(settings.s3_port),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "falaj.app", *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("FALAJ_")} | own,
        cwd=settings.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(settings: Settings, role: str) -> Iterator[subprocess.Popen[str]]:
    process = start(settings, role)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def readiness(settings: Settings) -> dict[str, dict[str, object]]:
    answer = urllib3.request("GET", f"{settings.url}/readyz", retries=False, timeout=10)
    assert answer.status in {200, 503}
    return {check["name"]: check for check in answer.json()["checks"]}


def listens(settings: Settings) -> bool:
    try:
        return urllib3.request("GET", f"{settings.url}/healthz", retries=False, timeout=5).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def test_the_gateway_listens_without_postgres_and_says_what_is_missing(tmp_path: Path) -> None:
    settings = made_home(tmp_path)
    with running(settings, "gateway") as process:
        wait_for(lambda: listens(settings), seconds_max=20)
        checks = readiness(settings)
        assert not any(check["ready"] for check in checks.values())
        assert "declared" in str(checks["site"]["message"])
        key = (settings.secrets_dir / "admin.key").read_text().strip()
        answer = urllib3.request(
            "GET", f"{settings.url}/v1/models", headers={"Authorization": f"Bearer {key}"}, retries=False, timeout=30
        )
        assert answer.status == 503  # the key cannot be looked up, and nothing fails open
        assert psutil.Process(process.pid).memory_info().rss <= RSS_BYTES_MAX
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 0
        assert all(json.loads(line)["level"] in {"info", "warning"} for line in said.splitlines()), said


def test_control_waits_for_postgres_and_can_be_stopped_while_it_does(tmp_path: Path) -> None:
    settings = made_home(tmp_path)
    with running(settings, "control") as process:
        time.sleep(3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "critical" not in said


@pytest.mark.parametrize("arguments", [(), ("gatway",), ("gateway", "control")])
def test_a_wrong_role_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    process = start(made_home(tmp_path), *arguments)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "gateway|control" in said


@pytest.mark.parametrize("role", ["gateway", "control"])
def test_a_process_without_secrets_says_what_to_do(tmp_path: Path, role: str) -> None:
    process = start(Settings(home=tmp_path, port=free_port()), role)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "falaj up" in json.loads(said.splitlines()[-1])["reason"]


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    process = start(made_home(tmp_path), "gateway", FALAJ_LOG_LEVEL="loud")
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "log_level" in json.loads(said.splitlines()[-1])["reason"]


def test_a_port_that_is_taken_ends_the_gateway_with_a_reason(tmp_path: Path) -> None:
    settings = made_home(tmp_path)
    with running(settings, "gateway"):
        wait_for(lambda: listens(settings), seconds_max=20)
        second = start(settings, "gateway")
        _, said = second.communicate(timeout=20)
        assert second.returncode != 0
        assert "address already in use" in said


# --- in a region ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_region() -> Iterator[RunningRegion]:
    """A region of these tests' own, to be broken."""
    started = RunningRegion()
    try:
        yield started.up()
    finally:
        started.remove()


def test_an_idle_region_is_small(own_region: RunningRegion) -> None:
    assert own_region.process("gateway").memory_info().rss <= RSS_BYTES_MAX
    assert own_region.process("control").memory_info().rss <= RSS_BYTES_MAX
    everything = [
        one
        for name in ("gateway", "control", "postgres", "seaweedfs")
        for one in (own_region.process(name), *own_region.process(name).children(recursive=True))
    ]
    assert sum(one.memory_info().rss for one in everything) <= REGION_RSS_BYTES_MAX


@pytest.mark.parametrize("engine", ["postgres", "seaweedfs"])
def test_both_processes_survive_a_killed_engine_and_go_on(own_region: RunningRegion, engine: str) -> None:
    before = {name: own_region.process(name).pid for name in ("gateway", "control")}
    key = own_region.project(f"before-{engine}")
    own_region.process(engine).kill()
    wait_for(own_region.ready, seconds_max=60, what=lambda: own_region.log("control"))
    own_region.apply(
        {"kind": "Bucket", "metadata": {"project": f"before-{engine}", "name": "docs"}, "spec": {}}, key=key
    )
    own_region.wait_ready(f"{API}/projects/before-{engine}/buckets/docs", seconds_max=60)
    assert {name: own_region.process(name).pid for name in before} == before


def test_what_was_declared_while_control_was_away_is_done_when_it_is_back(own_region: RunningRegion) -> None:
    own_region.process("control").kill()
    own_region.project("while-away", {"kind": "Bucket", "metadata": {"name": "docs"}, "spec": {}})
    own_region.wait_ready(f"{API}/projects/while-away/buckets/docs", seconds_max=60)


def test_a_killed_control_is_replaced_and_the_region_ready_again(own_region: RunningRegion) -> None:
    wait_for(own_region.ready, seconds_max=30)
    control = own_region.process("control")
    control.suspend()
    try:
        # A frozen process runs as far as anybody can see; a killed one does not.
        assert own_region.call("GET", "/healthz").status == 200
    finally:
        control.resume()
    control.kill()

    def replaced() -> bool:
        try:
            return own_region.process("control").pid != control.pid
        except (psutil.NoSuchProcess, TypeError):  # between the death and the new start there is no pid
            return False

    wait_for(replaced, seconds_max=30)
    wait_for(own_region.ready, seconds_max=30)
