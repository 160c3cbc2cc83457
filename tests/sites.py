"""A real supervised site in a temporary folder, and a whole region started by the command. They end what they start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from falaj.engines.interface import ProcessSpec, ProcessState
from falaj.engines.supervisor import control
from falaj.engines.supervisor.processes import FileProcesses, read_record
from tests.postgres import free_port

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 20) -> T:
    """The first true answer of ``condition``; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {condition!r}")
        time.sleep(0.03)
    return answer


def sleeper(name: str, *, order: int = 50, **fields: Any) -> ProcessSpec:
    """A process that does nothing, for ten minutes at most."""
    return ProcessSpec(name=name, argv=("/bin/sleep", "600"), order=order, **fields)


class Site:
    """A site with nothing but what a test declares."""

    def __init__(self, folder: Path | None = None) -> None:
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="falaj-test-site-"))
        self.files = control.SiteFiles(self.folder)
        self.processes = FileProcesses(self.folder)
        self.files.make()

    def start(self) -> None:
        """Start keeper and supervisor."""
        control.ensure_running(self.files)
        until(self.supervisor_pid)
        until(self.keeper_pid)

    def run(self, *specs: ProcessSpec) -> None:
        """Declare the processes and wait until they are ready."""
        for spec in specs:
            self.processes.create(spec)
        for spec in specs:
            self.ready(spec.name)

    def supervisor_pid(self) -> int | None:
        return control.lock_holder(self.files.supervisor_lock)

    def keeper_pid(self) -> int | None:
        return control.lock_holder(self.files.keeper_lock)

    def kill_supervisor(self) -> int:
        return _kill(until(self.supervisor_pid))

    def kill_keeper(self) -> int:
        return _kill(until(self.keeper_pid))

    def kill(self, name: str) -> int:
        """``kill -9`` the process; its pid."""
        return _kill(self.pid(name))

    def pid(self, name: str) -> int:
        state = self.processes.observe(name)
        assert state is not None
        assert state.pid is not None, state
        return state.pid

    def ready(self, name: str, *, not_pid: int | None = None, seconds: float = 30) -> ProcessState:
        """The process once it is ready, under another pid than ``not_pid``."""

        def look() -> ProcessState | None:
            state = self.processes.observe(name)
            return state if state is not None and state.ready and state.pid != not_pid else None

        return until(look, seconds)

    def stop(self) -> None:
        control.request_stop(self.files)
        assert control.wait_until_stopped(self.files, 60)

    def remove(self) -> None:
        """Stop everything, by force what a broken supervisor left, and delete the folder."""
        try:
            self.stop()
        finally:
            for path in self.files.state.glob("*.json"):
                record = read_record(path)
                if record and record.pid and record.as_state().pid:
                    os.kill(record.pid, signal.SIGKILL)
            if self._own:
                shutil.rmtree(self.folder, ignore_errors=True)


def _kill(pid: int | None) -> int:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


class Region:
    """A region under a temporary ``FALAJ_HOME``, driven by the real command in processes of its own."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="falaj-test-home-")) / "home"
        weakref.finalize(self, shutil.rmtree, self.home.parent, True)  # of those that never came up
        self.port, self.s3_port = free_port(), free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FALAJ_")},
            "FALAJ_HOME": str(self.home),
            "FALAJ_PORT": str(self.port),
            "FALAJ_S3_PORT": str(self.s3_port),
        }

    @property
    def site(self) -> Site:
        return Site(self.home / "sites" / "local-a")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command, apart from pytest's terminal."""
        return subprocess.Popen(
            [sys.executable, "-m", "falaj.cli.main", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,
        )

    def falaj(self, *arguments: str, code: int = 0) -> str:
        """What the command prints on stdout; it must end with ``code``."""
        with self.popen(*arguments) as process:
            stdout, stderr = process.communicate(timeout=150)
        assert process.returncode == code, f"falaj {' '.join(arguments)}: {process.returncode}\n{stdout}\n{stderr}"
        return stdout if code == 0 else stdout + stderr

    def ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=3) as answer:
                return bool(json.load(answer)["ready"])
        except (urllib.error.URLError, OSError, ValueError):
            return False

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One call of the REST wire with the administrator's key."""
        key = (self.home / "secrets" / "admin.key").read_text().strip()
        request = urllib.request.Request(f"{self.url}{path}", data=body, method=method)
        request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def remove(self) -> None:
        if (self.home / "sites").is_dir():
            self.site.remove()
        shutil.rmtree(self.home.parent, ignore_errors=True)
