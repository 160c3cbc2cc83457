"""HTTP connections with a limit on everything that uvicorn's parser leaves open: the head's size, and slow clients."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Request line and headers together.
HEAD_BYTES_MAX: Final = 32 * 1024
#: From the opening of a connection, or the first byte of a further request, to the end of its headers.
HEAD_SECONDS_MAX: Final = 15.0
#: How much of a refused body is read and thrown away, so that the client gets to read the refusal.
DISCARD_BYTES_MAX: Final = 64 << 20
DISCARD_SECONDS_MAX: Final = 30.0

_HEAD_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that ends connections which send too much, or too slowly, outside of a body.

    Bodies are bounded where they are read (``protocols.http.Call.body``).
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._reading_head = True
        self._discarded_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first head."""
        super().connection_made(transport)
        self._expect_within(HEAD_SECONDS_MAX)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse a head that has grown past its limit without ending."""
        if self._reading_head:
            self._head_bytes += len(data)
            if self._deadline is None:
                self._expect_within(HEAD_SECONDS_MAX)
        super().data_received(data)
        if self._reading_head and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """The head has ended; what follows is a body."""
        self._reading_head = False
        self._in_time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass the body on; what comes after the answer is thrown away, up to a limit."""
        if self.cycle.response_complete:
            self._discarded_bytes += len(body)
            if self._deadline is None:
                self._expect_within(DISCARD_SECONDS_MAX)
            if self._discarded_bytes > DISCARD_BYTES_MAX:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next bytes are a new head."""
        super().on_message_complete()
        self._in_time()
        self._reading_head = True
        self._head_bytes = self._discarded_bytes = 0

    def _expect_within(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()
