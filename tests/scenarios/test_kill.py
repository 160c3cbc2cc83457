"""``kill -9`` of each process of a region, and of several: it comes back by itself and nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.error
from collections.abc import Iterator

import psutil
import pytest

from tests.sites import Region, until

pytestmark = pytest.mark.timeout(280)
COMES_BACK_SECONDS = 45


@pytest.fixture(scope="module")
def region() -> Iterator[Region]:
    made = Region()
    made.falaj("up")
    declare(made, "before")
    yield made
    made.remove()


def declare(region: Region, name: str) -> None:
    body = {"apiVersion": "falaj/v1", "kind": "Project", "metadata": {"name": name}, "spec": {}}
    region.call("PUT", f"/falaj/v1/projects/{name}", json.dumps(body).encode())


def names(region: Region) -> set[str]:
    listing = json.loads(region.call("GET", "/falaj/v1/projects?limit=500"))
    return {item["metadata"]["name"] for item in listing["items"]}


@pytest.mark.parametrize("name", ["postgres", "seaweedfs", "gateway", "control"])
def test_a_killed_process_comes_back_and_the_region_with_it(region: Region, name: str) -> None:
    killed = region.site.kill(name)
    region.site.ready(name, not_pid=killed, seconds=COMES_BACK_SECONDS)
    until(region.ready, COMES_BACK_SECONDS)
    declare(region, f"after-{name}")
    assert {"before", f"after-{name}"} <= names(region)


def test_a_killed_backend_of_postgres_is_recovered_from(region: Region) -> None:
    backends = psutil.Process(region.site.pid("postgres")).children()
    os.kill(next(child.pid for child in backends if "falaj falaj" in " ".join(child.cmdline())), signal.SIGKILL)
    until(lambda: region.ready() and "before" in names(region), COMES_BACK_SECONDS)


@pytest.mark.parametrize("which", ["keeper", "supervisor"])
def test_killing_those_who_watch_stops_nothing(region: Region, which: str) -> None:
    site = region.site
    before = {name: state.pid for name, state in site.processes.observe_all().items()}
    killed = site.kill_keeper() if which == "keeper" else site.kill_supervisor()
    until(lambda: (site.keeper_pid() if which == "keeper" else site.supervisor_pid()) not in {None, killed})
    assert region.ready()
    assert {name: state.pid for name, state in site.processes.observe_all().items()} == before


def test_what_was_acknowledged_is_there_after_everything_was_killed_at_once(region: Region) -> None:
    """All of the region but its disk, in the middle of writing."""
    acknowledged: list[str] = []

    def write() -> None:
        for number in range(10_000):
            try:
                declare(region, f"kept-{number}")
            except (urllib.error.URLError, OSError):
                return
            acknowledged.append(f"kept-{number}")

    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: len(acknowledged) >= 15)
    site = region.site
    victims = [site.keeper_pid(), site.supervisor_pid()]
    victims += [state.pid for state in site.processes.observe_all().values()]
    for pid in victims:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    writer.join(60)
    assert not region.ready()
    region.falaj("up")
    assert set(acknowledged) <= names(region)
