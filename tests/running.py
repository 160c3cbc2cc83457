"""A real region of the tests' own, started by ``falaj up`` in a folder and on ports of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import urllib3

from tests.model_file import SMALL_MODEL, models_dir

FALAJ = Path(sys.executable).parent / "falaj"
UP_SECONDS = 120
READY_SECONDS = 240

#: Endpoints of the project ``system``, hence for every project: the small chat model and the embedder.
SYSTEM = [
    {"kind": "Model", "metadata": {"name": SMALL_MODEL}, "spec": {"catalogue": SMALL_MODEL}},
    {"kind": "Model", "metadata": {"name": "e5"}, "spec": {"catalogue": "multilingual-e5-small"}},
    {
        "kind": "Endpoint",
        "metadata": {"project": "system", "name": "chat"},
        "spec": {"model": SMALL_MODEL, "context_tokens_max": 2048},
    },
    {"kind": "Endpoint", "metadata": {"project": "system", "name": "e5"}, "spec": {"model": "e5"}},
]


def free_port() -> int:
    """A loopback port that nobody listens on now, below those that Linux takes for outgoing connections."""
    for _ in range(100):
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            port = int(trial.getsockname()[1]) % 10_000 + 10_000
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


@dataclass
class RunningRegion:
    """A region and how it is reached. ``project`` makes a project with a key of its own."""

    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="falaj-test-", dir="/tmp")))
    port: int = field(default_factory=free_port)
    s3_port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    """Further settings, as they are named in the environment."""

    def __post_init__(self) -> None:
        self.http = urllib3.PoolManager(retries=False, timeout=150)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What ``falaj`` is called with; nothing of the person's who runs the tests."""
        own = {
            "FALAJ_HOME": str(self.home),
            "FALAJ_PORT": str(self.port),
            "FALAJ_S3_PORT": str(self.s3_port),
            "FALAJ_MODELS_DIR": str(models_dir()),
            **self.settings,
        }
        return {name: value for name, value in os.environ.items() if not name.startswith("FALAJ_")} | own

    def falaj(self, *arguments: str, seconds_max: float = UP_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run the command against this region."""
        return subprocess.run(
            [str(FALAJ), *arguments],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
        )

    def up(self) -> RunningRegion:
        """Start it, or start it again."""
        started = self.falaj("up")
        assert started.returncode == 0, f"{started.stderr}\n{self.log('gateway')}\n{self.log('control')}"
        return self

    def remove(self) -> None:
        """Stop everything and remove the folder; nothing is left running, whatever happened."""
        stopped = self.falaj("down")
        shutil.rmtree(self.home, ignore_errors=True)
        assert stopped.returncode == 0, stopped.stderr

    def log(self, process: str, characters: int = 4000) -> str:
        """The end of a process's log."""
        path = self.site_dir / "logs" / f"{process}.log"
        return path.read_text(errors="replace")[-characters:] if path.exists() else f"({process} has no log)"

    @property
    def site_dir(self) -> Path:
        return self.home / "sites" / "local-a"

    @property
    def admin_key(self) -> str:
        return (self.home / "secrets" / "admin.key").read_text().strip()

    def process(self, name: str) -> psutil.Process:
        """A process of the site, by the name that the supervisor knows it by."""
        record = json.loads((self.site_dir / "state" / f"{name}.json").read_bytes())
        return psutil.Process(record["pid"])

    def replica(self, endpoint: str) -> psutil.Process:
        """The worker of the first replica of an endpoint of the project ``system``."""
        status = self.call("GET", f"/falaj/v1/projects/system/endpoints/{endpoint}").json()["status"]
        return psutil.Process(status["replicas"][0]["pid"])

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """One call of a wire; ``body`` is sent as it is when it is bytes, otherwise as JSON."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {key or self.admin_key}", **(headers or {})}
        return self.http.request(method, self.url + path, body=content, headers=given)

    def apply(self, *manifests: dict[str, Any], key: str | None = None) -> None:
        """Declare resources."""
        documents = "\n---\n".join(json.dumps({"apiVersion": "falaj/v1", **manifest}) for manifest in manifests)
        answer = self.call("POST", "/falaj/v1/apply", documents.encode(), key=key)
        assert answer.status == 200, answer.data

    def project(self, name: str, *manifests: dict[str, Any]) -> str:
        """A project that holds these resources, and a key of its own."""
        self.apply({"kind": "Project", "metadata": {"name": name}})
        placed = [{**one, "metadata": {"project": name, **one["metadata"]}} for one in manifests]
        if placed:
            self.apply(*placed)
        answer = self.call("POST", "/falaj/v1/keys", {"name": f"tests of {name}", "project": name})
        assert answer.status == 201, answer.data
        return str(answer.json()["key"])

    def wait_ready(self, path: str, *, seconds_max: float = READY_SECONDS) -> dict[str, Any]:
        """Wait until the resource at a path is ready."""
        seen: dict[str, Any] = {}

        def ready() -> bool:
            answer = self.call("GET", path)
            seen.update(answer.json() if answer.status == 200 else {})
            conditions = seen.get("status", {}).get("conditions", [])
            return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

        wait_for(ready, seconds_max=seconds_max, what=lambda: f"{path}: {seen.get('status')}\n{self.log('control')}")
        return seen

    def ready(self) -> bool:
        """Whether the region says that it is ready."""
        try:
            return self.call("GET", "/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False


def wait_for(
    condition: Callable[[], bool], *, seconds_max: float, what: Callable[[], str] = lambda: "it did not happen"
) -> None:
    """Wait until ``condition`` holds; fail with ``what()`` when it does not in time."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)
