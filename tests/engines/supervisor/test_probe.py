"""A probe says what is wrong, and never takes longer than its limit."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from falaj.engines.interface import Probe
from falaj.engines.supervisor.probe import Prober, check
from tests.postgres import free_port
from tests.sites import until


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """A listener that answers every connection with these bytes; with None, never."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        over = threading.Event()
        kept: list[socket.socket] = []

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                kept.append(connection)
                if answer is not None:
                    connection.recv(1000)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()
            for connection in kept:
                connection.close()


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "answered 302"),
        (b"SSH-2.0-OpenSSH\r\n", "not"),
    ],
)
def test_an_http_probe_wants_2xx(answer: bytes, wrong: str) -> None:
    with answering(answer) as port:
        said = check(Probe(port, "/healthz"))
    assert (wrong in said) if wrong else said == ""


def test_a_connection_is_enough_without_a_path() -> None:
    with answering(None) as port:
        assert check(Probe(port)) == ""


def test_nobody_there_is_told() -> None:
    port = free_port()
    assert str(port) in check(Probe(port))


def test_one_that_never_answers_takes_no_longer_than_the_limit() -> None:
    with answering(None) as port:
        started_at = time.monotonic()
        assert check(Probe(port, "/", timeout_seconds=0.3))
        assert time.monotonic() - started_at < 2


def test_a_prober_does_not_make_its_caller_wait_and_drops_old_answers() -> None:
    prober = Prober()
    with answering(None) as port:
        prober.watch(Probe(port, "/", timeout_seconds=0.5))
        started_at = time.monotonic()
        prober.tick(started_at, eager=True)
        assert time.monotonic() - started_at < 0.3
        prober.watch(None)
        time.sleep(0.8)
        assert prober.failures == 0


def test_a_prober_counts_what_comes_in_a_row() -> None:
    prober = Prober()
    with answering(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        prober.watch(Probe(port, "/"))
        prober.tick(time.monotonic(), eager=True)
        until(lambda: prober.successes == 1)
    prober.tick(time.monotonic() + 100, eager=True)
    until(lambda: prober.failures == 1)
    assert prober.successes == 0
    assert prober.message
