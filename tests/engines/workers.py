"""Real replica workers, started by a test and ended by their pid."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falaj.engines.replicas import replica_key
from tests.postgres import free_port


@dataclass
class Worker:
    """A running worker: where it is, its key, and the process."""

    port: int
    key: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, timeout: float = 120
    ) -> tuple[int, Any]:
        """Status and JSON (or text) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def metric(self, name: str) -> float:
        """A number of llama.cpp's ``/metrics``."""
        text = str(self.call("GET", "/metrics")[1])
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"llamacpp:{name} ")))

    def processor_seconds(self) -> float:
        """Processor time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Memory that the process holds."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait(timeout=10)


def start(
    folder: Path, engine: str, arguments: Sequence[str], *, port: int | None = None, wait_seconds: float = 90
) -> Worker:
    """Start a worker; with ``wait_seconds`` 0, do not wait until it is healthy."""
    key_file = folder / "replica.key"
    log = folder / f"{engine}.log"
    port = port or free_port()
    command = [sys.executable, "-m", f"falaj.engines.{engine}.worker", "--port", str(port), "--key-file", str(key_file)]
    with log.open("ab") as output:
        process = subprocess.Popen([*command, *arguments], stdout=output, stderr=output, start_new_session=True)
    worker = Worker(port, replica_key(key_file), process, log)
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        try:
            if worker.call("GET", "/health", timeout=2)[0] == 200:
                return worker
        except OSError:
            pass
        if process.poll() is not None:
            raise AssertionError(f"the worker ended with {process.returncode}: {log.read_text()[-2000:]}")
        time.sleep(0.05)
    if wait_seconds:
        worker.kill()
        raise AssertionError(f"the worker is not healthy after {wait_seconds} s: {log.read_text()[-2000:]}")
    return worker


@contextmanager
def running(folder: Path, engine: str, arguments: Sequence[str], **options: Any) -> Iterator[Worker]:
    """A worker for the length of a block."""
    worker = start(folder, engine, arguments, **options)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.kill()


def exit_message(folder: Path, engine: str, arguments: Sequence[str], *, port: int | None = None) -> str:
    """What a worker that cannot start says last; it must end by itself with status 1."""
    worker = start(folder, engine, arguments, port=port, wait_seconds=0)
    try:
        assert worker.process.wait(timeout=60) == 1
    finally:
        if worker.process.poll() is None:
            worker.kill()
    return worker.log.read_text().strip().splitlines()[-1]


def seconds_to_end(worker: Worker, how: signal.Signals = signal.SIGTERM) -> float:
    """How long a worker takes to end once it is told to."""
    begun = time.monotonic()
    os.kill(worker.process.pid, how)
    worker.process.wait(timeout=20)
    return time.monotonic() - begun
