"""What every wire needs of plain ASGI: calls with a bounded body, JSON out, streams that end when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, MutableMapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from falaj.errors import Conflict, Denied, FalajError, Invalid, LimitExceeded, NotFound, Terminal, Transient, nearest
from falaj.trust.identity import Principal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

#: How long a client may take to send its body, and to take one piece of a stream.
BODY_SECONDS_MAX: Final = 60.0
PIECE_SECONDS_MAX: Final = 60.0
PIECE_BYTES: Final = 256 * 1024

#: Answers are data for programs: never sniffed, framed, cached or run.
_SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)

_STATUS: Final[dict[type[FalajError], int]] = {
    Invalid: 400,
    Denied: 403,
    NotFound: 404,
    Conflict: 409,
    LimitExceeded: 413,
    Transient: 503,
    Terminal: 500,
}


class Unauthenticated(Denied):
    """No key was given, or one that does not count; every other ``Denied`` means that the key may not do this."""

    @property
    def code(self) -> str:
        """Clients compare the name of the error tree."""
        return Denied.__name__


class MethodNotAllowed(Invalid):
    """The path exists, but not for this method."""

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(sorted(set(allowed)))
        super().__init__(f"{method} is not for this path", where="method", hint=f"it answers to {self.allowed}")

    @property
    def code(self) -> str:
        """Clients compare the name of the error tree."""
        return Invalid.__name__


class ClientGone(Exception):
    """The client closed the connection; there is nobody to answer."""


def status_of(error: FalajError) -> int:
    """The HTTP status of an error: the one table that every wire uses."""
    if isinstance(error, Unauthenticated):
        return 401
    if isinstance(error, MethodNotAllowed):
        return 405
    return next(status for kind, status in _STATUS.items() if isinstance(error, kind))


@dataclass(slots=True)
class Call:
    """One HTTP call in progress: what was asked, by whom, and the way to answer it."""

    scope: Message
    receive: Receive
    send: Send
    request_id: str
    route: str = "unmatched"
    """The template of the path, for metrics; never the path itself, which would be unbounded."""
    status: int = 0
    """What was answered; 0 until the answer began."""
    began: float = field(default_factory=perf_counter)
    caller: Principal | None = None

    @property
    def method(self) -> str:
        """GET, POST, …"""
        return self.scope["method"]  # type: ignore[no-any-return]

    @property
    def path(self) -> str:
        """The decoded path."""
        return self.scope["path"]  # type: ignore[no-any-return]

    @property
    def principal(self) -> Principal:
        """Who calls.

        Raises:
            Unauthenticated: nobody was authenticated; so nothing that asks can be reached without a key.
        """
        if self.caller is None:
            raise Unauthenticated("this call needs an API key", hint="send 'Authorization: Bearer KEY'")
        return self.caller

    def header(self, name: bytes) -> str:
        """The first header of that lowercase name, or the empty string."""
        for key, value in self.scope["headers"]:
            if key == name:
                return value.decode("latin-1")  # type: ignore[no-any-return]
        return ""

    def query(self, *known: str) -> dict[str, list[str]]:
        """The query's parameters.

        Raises:
            Invalid: one is not in ``known``, or the query is not UTF-8.
        """
        given: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(
                self.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64
            )
        except ValueError as error:
            raise Invalid(f"the query cannot be read: {error}", where="query") from error
        for name, value in pairs:
            if name not in known:
                raise Invalid(f"unknown query parameter {name[:80]!r}", where="query", hint=nearest(name, known))
            given.setdefault(name, []).append(value)
        return given

    async def body(self, bytes_max: int, *, seconds_max: float = BODY_SECONDS_MAX) -> bytes:
        """The whole body.

        Raises:
            LimitExceeded: it is, or says that it is, larger than ``bytes_max``, or took longer than ``seconds_max``.
            ClientGone: the client left before it was sent.
        """
        declared = self.header(b"content-length")
        if declared.isdecimal() and int(declared) > bytes_max:
            raise _too_large(bytes_max)
        received = bytearray()
        try:
            async with asyncio.timeout(seconds_max):
                more = True
                while more:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    received += message.get("body", b"")
                    if len(received) > bytes_max:
                        raise _too_large(bytes_max)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise LimitExceeded(f"the body did not arrive within {seconds_max:g} seconds", where="body") from None
        return bytes(received)

    async def json(self, bytes_max: int) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            Invalid: it is not JSON (with the line and column), not UTF-8, or not an object.
        """
        content = await self.body(bytes_max)
        try:
            value = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise _not_json(content, error) from error
        if not isinstance(value, dict):
            raise Invalid(f"the body is {_json_type(value)}, not a JSON object", where="body")
        return value

    async def answer(self, status: int, content: bytes, content_type: bytes, headers: Headers = ()) -> None:
        """Send a whole answer.

        Raises:
            ClientGone: the client did not take a piece within ``PIECE_SECONDS_MAX``.
        """
        await self._start(status, content_type, (*headers, (b"content-length", str(len(content)).encode())))
        if len(content) <= PIECE_BYTES:
            await self.send({"type": "http.response.body", "body": content})
            return
        # In pieces, each waiting for the one before to leave: a slow client must not keep a second copy in the socket.
        for start in range(0, len(content), PIECE_BYTES):
            await self._piece(content[start : start + PIECE_BYTES])
        await self.send({"type": "http.response.body", "body": b""})

    async def answer_nothing(self) -> None:
        """Say that it is done and that there is nothing to tell: 204."""
        await self._start(204, None, ())
        await self.send({"type": "http.response.body", "body": b""})

    async def answer_json(self, status: int, value: object, headers: Headers = ()) -> None:
        """Send a value as JSON."""
        content = orjson.dumps(value, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
        await self.answer(status, content, b"application/json", headers)

    async def stream(
        self, pieces: AsyncIterator[bytes], farewell: bytes = b"", content_type: bytes = b"text/event-stream"
    ) -> None:
        """Send pieces as they come. The caller turns errors into pieces: the status is already on the wire.

        Args:
            farewell: the last piece when this process stops in the middle.

        Raises:
            ClientGone: the client did not take a piece within ``PIECE_SECONDS_MAX``.
        """
        await self._start(200, content_type, ((b"x-accel-buffering", b"no"),))
        try:
            async for piece in pieces:
                await self._piece(piece)
        except asyncio.CancelledError:
            # The process stops, or the client has left: then nobody hears it, and it does no harm.
            await self.send({"type": "http.response.body", "body": farewell})
            raise
        await self.send({"type": "http.response.body", "body": b""})

    async def _piece(self, piece: bytes) -> None:
        try:
            async with asyncio.timeout(PIECE_SECONDS_MAX):
                await self.send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            raise ClientGone from None

    async def _start(self, status: int, content_type: bytes | None, headers: Headers) -> None:
        self.status = status
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    *(((b"content-type", content_type),) if content_type else ()),
                    (b"x-request-id", self.request_id.encode("ascii")),
                    *_SECURITY_HEADERS,
                    *headers,
                ],
            }
        )

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work``, and cancel it as soon as the client hangs up. The body must have been read before.

        Raises:
            ClientGone: the client hung up first; ``work`` has ended.
        """
        doing = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._disconnected())
        try:
            await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise ClientGone
            doing.result()
        finally:
            gone.cancel()
            doing.cancel()
            await asyncio.gather(doing, gone, return_exceptions=True)

    async def _disconnected(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


def error_headers(error: FalajError) -> list[tuple[bytes, bytes]]:
    """The headers that belong to an error: how to authenticate, when to try again."""
    if isinstance(error, Unauthenticated):
        return [(b"www-authenticate", b'Bearer realm="falaj"')]
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", error.allowed.encode())]
    if isinstance(error, Transient):
        return [(b"retry-after", str(max(1, round(error.retry_after_seconds))).encode())]
    return []


def _too_large(bytes_max: int) -> LimitExceeded:
    return LimitExceeded(
        f"the body is larger than {bytes_max:,} bytes", where="body", hint="send less, or in several calls"
    )


def _not_json(content: bytes, error: orjson.JSONDecodeError) -> Invalid:
    try:
        content.decode()
    except UnicodeDecodeError as unicode:
        return Invalid(f"the body is not UTF-8 at byte {unicode.start}", where="body", hint="send JSON in UTF-8")
    return Invalid(
        f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
        where="body",
        hint="send one JSON object",
    )


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
