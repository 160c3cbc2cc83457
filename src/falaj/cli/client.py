"""A thin client of the REST wire: one call, one answer, every failure one of ``falaj.errors``.

Only loopback speed is assumed, never good manners: an answer has a size limit, a call has a deadline that a server
dribbling bytes cannot stretch, and what is not JSON is reported as such.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from urllib3.exceptions import (
    HTTPError,
    LocationParseError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from falaj.errors import Conflict, Denied, FalajError, Invalid, LimitExceeded, NotFound, Terminal, Transient

API = "/falaj/v1"
CONNECT_SECONDS_MAX = 3.0
CALL_SECONDS_MAX = 60.0
ANSWER_BYTES_MAX = 64 << 20
ATTEMPTS_MAX = 3
_RETRY_SECONDS_MAX = 5.0
_PIECE_BYTES = 1 << 16

_CLASSES: dict[str, type[FalajError]] = {
    error.__name__: error
    for error in (FalajError, Invalid, Denied, NotFound, Conflict, LimitExceeded, Transient, Terminal)
}
_CLASS_OF_STATUS: dict[int, type[FalajError]] = {
    400: Invalid, 401: Denied, 403: Denied, 404: NotFound, 409: Conflict, 413: LimitExceeded, 422: Invalid,
    429: LimitExceeded, 502: Transient, 503: Transient, 504: Transient,
}  # fmt: skip


Query = Mapping[str, str | int | list[str] | None]


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the wire."""

    method: str
    path: str
    query: Query | None = None
    content: bytes | BinaryIO | None = None
    headers: Mapping[str, str] | None = None
    repeatable: bool = False
    seconds_max: float = CALL_SECONDS_MAX

    def rewind(self) -> None:
        """Make the content ready to be sent again."""
        if self.content is not None and not isinstance(self.content, bytes):
            self.content.seek(0)


class NoRegion(Transient):
    """Nothing answers at the region's address. For scripts it is one more thing that may pass."""

    @property
    def code(self) -> str:
        """``Transient``: the stable word of the tree."""
        return Transient.__name__


class Client:
    """Calls a region's REST wire.

    Args:
        url: the region's address, ``http://127.0.0.1:7440``.
        key: the API key; empty sends none.

    Raises:
        Invalid: the address is not an http(s) URL.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url = _checked(url)
        self._headers = {"User-Agent": "falaj-cli", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._pool = urllib3.PoolManager(maxsize=4, retries=False)

    def get(self, path: str, query: Query | None = None, *, seconds_max: float = CALL_SECONDS_MAX) -> Any:
        """The JSON document at ``path``; parameters that are None or empty are left out of ``query``."""
        return self._answer(_Call("GET", path, query, repeatable=True, seconds_max=seconds_max))

    def post(
        self,
        path: str,
        body: Any,
        query: Query | None = None,
        *,
        content_type: str = "application/json",
        seconds_max: float = CALL_SECONDS_MAX,
        repeatable: bool = False,
    ) -> Any:
        """Send bytes, or anything else as JSON. ``repeatable``: sending it twice does what sending it once does."""
        content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        headers = {"Content-Type": content_type}
        return self._answer(_Call("POST", path, query, content, headers, repeatable, seconds_max))

    def put(self, path: str, content: bytes | BinaryIO, *, size_bytes: int, content_type: str) -> Any:
        """Send bytes, from memory or from a file that can be rewound."""
        headers = {"Content-Type": content_type, "Content-Length": str(size_bytes)}
        return self._answer(_Call("PUT", path, None, content, headers, repeatable=True))

    def delete(self, path: str) -> Any:
        """Delete what is at ``path``; the answer's document, or None."""
        return self._answer(_Call("DELETE", path, repeatable=True))

    def events(
        self, path: str, body: Any, *, headers: Mapping[str, str], seconds_max: float
    ) -> Iterator[dict[str, Any]]:
        """Send a JSON document; the events of the stream that answers (server-sent events that carry JSON).

        Raises:
            Transient: the stream broke off before its end.
        """
        content = json.dumps(body, ensure_ascii=False).encode()
        call = _Call("POST", path, None, content, {"Content-Type": "application/json", **headers})
        deadline = time.monotonic() + seconds_max
        response = self._open(call, seconds_max)
        try:
            if response.status >= 300:
                raise self._error(response, call, deadline)
            for data in _event_data(self._pieces(response, deadline)):
                if data == b"[DONE]":
                    return
                event = _document(data, self._where(call))
                if "error" in event:
                    raise _carried(event, Transient)
                yield event
        finally:
            response.close()
        raise Transient("the stream broke off before its end", where=self._where(call), hint="try again")

    @contextmanager
    def download(self, path: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        """The size (when the server says it) and the bytes at ``path``, as they arrive.

        Raises:
            Transient: the answer broke off; what arrived so far is not the whole.
        """
        call = _Call("GET", path)
        response = self._open(call, CALL_SECONDS_MAX)
        try:
            if response.status >= 300:
                raise self._error(response, call, time.monotonic() + CALL_SECONDS_MAX)
            length = response.headers.get("Content-Length", "")
            yield int(length) if length.isdecimal() else None, self._pieces(response, None)
        finally:
            response.close()

    def _answer(self, call: _Call) -> Any:
        """The call's JSON document, tried again while that is safe and the time is not over."""
        deadline = time.monotonic() + call.seconds_max
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return self._once(call, deadline)
            except Transient as error:
                # Nothing was sent when nothing answered, so that may be tried again whatever the call does.
                pause = min(error.retry_after_seconds, _RETRY_SECONDS_MAX)
                enough = attempt == ATTEMPTS_MAX or time.monotonic() + pause >= deadline
                if enough or not (call.repeatable or isinstance(error, NoRegion)):
                    raise
                time.sleep(pause)
                call.rewind()
        raise AssertionError("the last attempt returned or raised")

    def _once(self, call: _Call, deadline: float) -> Any:
        response = self._open(call, max(deadline - time.monotonic(), 0.1))
        try:
            if response.status >= 300:
                raise self._error(response, call, deadline)
            body = self._body(response, deadline)
            response.release_conn()
        finally:
            response.close()
        return _document(body, self._where(call)) if body else None

    def _open(self, call: _Call, seconds_max: float) -> urllib3.BaseHTTPResponse:
        given = {name: value for name, value in (call.query or {}).items() if value not in (None, "", [])}
        address = f"{self.url}{call.path}" + (f"?{urlencode(given, doseq=True)}" if given else "")
        try:
            return self._pool.request(
                call.method,
                address,
                body=call.content,
                headers={**self._headers, **(call.headers or {})},
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS_MAX, read=seconds_max),
                preload_content=False,
                redirect=False,
            )
        except HTTPError as error:
            raise self._translated(error, self._where(call)) from error

    def _body(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        body = bytearray()
        for piece in self._pieces(response, deadline):
            body += piece
            if len(body) > ANSWER_BYTES_MAX:
                raise LimitExceeded(f"the answer is larger than {ANSWER_BYTES_MAX} bytes", where=self.url)
        return bytes(body)

    def _pieces(self, response: urllib3.BaseHTTPResponse, deadline: float | None) -> Iterator[bytes]:
        """The body as it arrives: ``read1`` returns what one receive brought, so the deadline is seen each time."""
        try:
            while piece := response.read1(_PIECE_BYTES):
                if deadline is not None and time.monotonic() > deadline:
                    raise Transient("the answer did not end in time", where=self.url, hint="try again")
                yield piece
        except HTTPError as error:
            raise self._translated(error, self.url) from error

    def _error(self, response: urllib3.BaseHTTPResponse, call: _Call, deadline: float) -> FalajError:
        """The error that an answer with an error's status carries."""
        body = self._body(response, deadline)
        kind = _CLASS_OF_STATUS.get(response.status, FalajError)
        try:
            error = _carried(json.loads(body), kind)
        except (ValueError, KeyError, TypeError, AttributeError):
            error = kind(
                f"the answer has status {response.status} and is not one of Falaj's errors",
                where=self._where(call),
                hint="does --url name a Falaj region?",
            )
        if isinstance(error, Transient):
            error.retry_after_seconds = _seconds(response.headers.get("Retry-After"))
        return error

    def _translated(self, error: HTTPError, where: str) -> FalajError:
        hint = "look at `falaj status` and `falaj logs gateway`"
        match error:
            case SSLError():
                return Denied(f"no trusted connection: {error}", where=where, hint="check the address and certificates")
            case LocationParseError():
                return Invalid(f"{self.url!r} is not an address", where="--url or FALAJ_URL", hint="http://HOST:PORT")
            case NewConnectionError():
                return NoRegion(
                    f"no region answers at {self.url}",
                    hint="run `falaj up`, or name another region with --url or FALAJ_URL",
                    retry_after_seconds=0.2,
                )
            case ReadTimeoutError() | urllib3.exceptions.TimeoutError():
                return Transient("no answer in time", where=where, hint=hint)
            case ProtocolError():
                return Transient("the connection broke off", where=where, hint=hint, retry_after_seconds=0.2)
        return Transient(f"the call failed: {error}", where=where, hint=hint)

    def _where(self, call: _Call) -> str:
        return f"{call.method} {self.url}{call.path}"


def segments(*parts: str) -> str:
    """A path under the API, each part escaped whole: ``segments("keys", "a/b")`` is ``/falaj/v1/keys/a%2Fb``."""
    return API + "".join(f"/{quote(part, safe='')}" for part in parts)


def _document(body: bytes, where: str) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise Invalid("the answer is not JSON", where=where, hint="does --url name a Falaj region?") from error


def _carried(document: Any, kind: type[FalajError]) -> FalajError:
    """The error in a document of the REST wire or of OpenAI's; ``kind`` when its code is none of the tree's."""
    fields = document["error"]
    where = fields.get("where") or fields.get("param") or ""
    kind = _CLASSES.get(fields.get("code"), kind)
    return kind(str(fields["message"]), where=str(where), hint=str(fields.get("hint") or ""))


def _event_data(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event; events end at an empty line, wherever the pieces were cut."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece.replace(b"\r", b"")
        if len(buffer) > ANSWER_BYTES_MAX:
            raise LimitExceeded(f"an event is larger than {ANSWER_BYTES_MAX} bytes")
        *events, rest = bytes(buffer).split(b"\n\n")
        buffer[:] = rest
        for event in events:
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username:
        raise Invalid(
            f"{url[:200]!r} is not a region's address", where="--url or FALAJ_URL", hint="write http://HOST:PORT"
        )
    return url.rstrip("/")


def _seconds(retry_after: str | None) -> float:
    try:
        return max(float(retry_after or 1), 0.0)
    except ValueError:
        return 1.0  # a date, which none of Falaj's wires send
