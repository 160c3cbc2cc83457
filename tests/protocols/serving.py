"""A real HTTP server on a free loopback port, in the test's own event loop, and raw requests to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import uvicorn

from falaj.protocols.connection import BoundedHttpProtocol


@dataclass
class Answer:
    """An HTTP answer, read to the end of the connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)


@asynccontextmanager
async def served(application: Callable[..., Awaitable[None]]) -> AsyncIterator[int]:
    """Serve an ASGI application as ``falaj.app`` does; yields the port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(
        application, http=BoundedHttpProtocol, ws="none", lifespan="off", log_config=None, server_header=False,
        access_log=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 10)
        listener.close()


async def ask(
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    raw_head: bytes = b"",
) -> Answer:
    """One request on a connection of its own."""
    given = {"host": "falaj", "connection": "close", "content-length": str(len(body)), **(headers or {})}
    head = raw_head or f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(
        f"{name}: {value}\r\n".encode("latin-1") for name, value in given.items() if value
    )
    return await exchange(port, head + b"\r\n" + body)


async def exchange(port: int, content: bytes, *, seconds_max: float = 20) -> Answer:
    """Send bytes, read the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(seconds_max):
            writer.write(content)
            return await read_answer(reader)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer; a connection that was closed without one has status 0."""
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return Answer(0, {}, b"")
    lines = head.decode("latin-1").split("\r\n")
    pairs = [line.partition(": ") for line in lines[1:] if line]
    headers = {name.lower(): value for name, _, value in pairs}
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = b""
        while headers.get("transfer-encoding") == "chunked":
            size = int(await reader.readuntil(b"\r\n"), 16)
            body += await reader.readexactly(size)
            await reader.readexactly(2)
            if size == 0:
                break
    return Answer(int(lines[0].split()[1]), headers, body)
