"""The one port: gives every call an id, authenticates it before its body is read, hands it to its wire, counts it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from falaj.errors import Denied, FalajError, NotFound
from falaj.protocols.http import (
    Call,
    ClientGone,
    Message,
    Receive,
    Send,
    Unauthenticated,
    error_headers,
    status_of,
)
from falaj.telemetry import Metrics, new_request_id, request_id
from falaj.trust.identity import Principal

logger = logging.getLogger(__name__)

#: The status that is counted (never sent) when the client left before the answer.
CLIENT_GONE_STATUS = 499


class Authenticator(Protocol):
    """Tells whose key it is: ``trust.identity.Keys``."""

    async def principal(self, secret: str) -> Principal:
        """The holder of the key; raises ``Denied`` in constant work for any key that does not count."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A protocol mounted on the port.

    Attributes:
        name: label of its metrics.
        prefix: the paths that it serves begin with this.
        handle: serves one call.
        error: an error in the shape of this wire.
        public: whole paths that need no key.
    """

    name: str
    prefix: str
    handle: Callable[[Call], Awaitable[None]]
    error: Callable[[FalajError, str], dict[str, Any]]
    public: frozenset[str] = frozenset()


class Server:
    """The ASGI application. The last wire serves whatever no other prefix claims."""

    def __init__(self, keys: Authenticator, metrics: Metrics, wires: Sequence[Wire]) -> None:
        self._keys = keys
        self._metrics = metrics
        self._wires = tuple(wires)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one HTTP call; nothing else is spoken here."""
        if scope["type"] != "http":
            return
        wire = self._wire(scope["path"])
        call = Call(scope, receive, send, "")
        call.request_id = new_request_id(call.header(b"x-request-id"))
        context = request_id.set(call.request_id)
        self._metrics.requests_in_progress.inc()
        try:
            await self._serve(wire, call)
        finally:
            self._metrics.requests_in_progress.dec()
            self._metrics.requests.labels(wire.name, call.route, str(call.status)).inc()
            self._metrics.request_seconds.labels(wire.name, call.route).observe(perf_counter() - call.began)
            request_id.reset(context)

    def _wire(self, path: str) -> Wire:
        return next((wire for wire in self._wires if path.startswith(wire.prefix)), self._wires[-1])

    async def _serve(self, wire: Wire, call: Call) -> None:
        try:
            if call.path not in wire.public:
                call.caller = await self._authenticate(call)
            await wire.handle(call)
        except ClientGone:
            call.status = CLIENT_GONE_STATUS
        except FalajError as error:
            status = status_of(error)
            if status >= 500:
                logger.warning("refused", extra={"path": call.path, "status": status, "reason": str(error)})
            await self._refuse(wire, call, error, status)
        except Exception:  # a defect of ours: the client gets an id to quote, the log the traceback, by uvicorn
            hint = f"quote the request id {call.request_id} to the operator"
            await self._refuse(wire, call, FalajError("the region failed to answer", hint=hint), 500)
            raise

    async def _authenticate(self, call: Call) -> Principal:
        scheme, _, secret = call.header(b"authorization").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthenticated("this call needs an API key", hint="send 'Authorization: Bearer KEY'")
        try:
            return await self._keys.principal(secret.strip())
        except Denied as error:
            raise Unauthenticated(error.message, where=error.where, hint=error.hint) from error

    async def _refuse(self, wire: Wire, call: Call, error: FalajError, status: int) -> None:
        if call.status:
            # The answer had begun. Left unfinished, uvicorn closes the connection: a part is not taken for the whole.
            logger.warning("an answer broke off", extra={"path": call.path, "reason": str(error)})
            return
        await call.answer_json(status, wire.error(error, call.request_id), error_headers(error))


def unknown_path(call: Call) -> NotFound:
    """The error for a path that no wire serves."""
    return NotFound(f"there is nothing at {call.path[:200]!r}", hint="see /openapi.json")
