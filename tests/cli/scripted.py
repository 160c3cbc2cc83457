"""A server that answers with given bytes: for what no well-behaved server would do."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

#: One answer: pieces to send, each after a pause in seconds.
Answer = bytes | Sequence[tuple[float, bytes]]


@dataclass
class Scripted:
    """What the server was asked, and where it is."""

    url: str
    requests: list[bytes] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The request lines, in order."""
        return [request.split(b"\r\n", 1)[0].decode() for request in self.requests]


def answer(status: int, body: object, *headers: str) -> bytes:
    """A whole answer; anything but bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


@contextmanager
def scripted(*answers: Answer, repeat_last: bool = True) -> Iterator[Scripted]:
    """Serve the answers in order, one a connection; the last again and again. Loopback only; ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Scripted(f"http://127.0.0.1:{listener.getsockname()[1]}")
        left = list(answers)
        stop = threading.Event()
        listener.settimeout(0.05)

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                except OSError:
                    return
                given = left.pop(0) if len(left) > 1 or not repeat_last else left[0]
                with connection:
                    _answer(server, connection, given, stop)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            stop.set()
            thread.join(timeout=10)


def _answer(server: Scripted, connection: socket.socket, given: Answer, stop: threading.Event) -> None:
    connection.settimeout(5)
    try:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536) or b"\r\n\r\n"
        head, _, body = request.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += connection.recv(65536)
        server.requests.append(head + b"\r\n\r\n" + body)
        for pause, piece in [(0.0, given)] if isinstance(given, bytes) else given:
            time.sleep(0 if stop.is_set() else pause)
            connection.sendall(piece)
    except OSError:
        return
