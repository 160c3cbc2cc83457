"""A real SeaweedFS for tests, its metadata in a test's Postgres: free loopback ports, ended by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

from falaj.engines.seaweedfs import process as seaweedfs
from falaj.engines.seaweedfs.filer import Filer
from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.errors import Transient
from tests.postgres import free_port


class SeaweedServer:
    """One ``weed server`` that a test may kill, freeze and start again."""

    def __init__(self, database_url: str, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="falaj-test-seaweedfs-"))
        ports = seaweedfs.Ports(**{field.name: free_port() for field in fields(seaweedfs.Ports)})
        self.endpoint = seaweedfs.Endpoint(
            "127.0.0.1", ports, seaweedfs.Admin("FLJTESTADMIN", "test-secret-0123456789"), self.folder
        )
        url = urlsplit(database_url)
        name = url.path.lstrip("/")
        seaweedfs.prepare(self.endpoint, seaweedfs.Database(url.port or 5432, name, url.username or "", "none"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait_seconds: float = 60) -> None:
        """Start, wait until it answers, and see to its durability rule."""
        spec = seaweedfs.process(self.endpoint)
        environment = {**os.environ, **spec.environment}
        log = (self.folder / "weed.log").open("ab")
        self._process = subprocess.Popen(
            spec.argv, stdout=log, stderr=log, cwd=spec.directory, env=environment, start_new_session=True
        )
        log.close()
        deadline = time.monotonic() + wait_seconds
        while not self._ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(f"SeaweedFS did not start: {(self.folder / 'weed.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.endpoint.s3_url}/healthz", timeout=1).close()
            Filer(self.endpoint).configure()
        except (urllib.error.URLError, OSError, Transient):
            return False
        return True

    @property
    def pid(self) -> int:
        """The server's pid."""
        assert self._process is not None
        return self._process.pid

    def store(self) -> SeaweedStore:
        """A client with the administrator's keys."""
        return SeaweedStore(self.endpoint)

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=20)

    def remove(self) -> None:
        """End it and remove its files."""
        self.kill()
        seaweedfs.remove_sockets(self.endpoint.ports)
        shutil.rmtree(self.folder, ignore_errors=True)
