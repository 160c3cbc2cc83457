"""Asks a process whether it is ready and never makes the supervisor wait: each probe runs in a short-lived thread."""

from __future__ import annotations

import socket
import threading

from falaj.engines.interface import Probe

#: Time between two probes of a process that is not ready yet, and of one that is.
EAGER_SECONDS = 0.2
CALM_SECONDS = 2.0


def check(probe: Probe) -> str:
    """What is wrong, or the empty string when the probe succeeds: a connection, or an HTTP answer of 2xx."""
    try:
        with socket.create_connection((probe.host, probe.port), probe.timeout_seconds) as connection:
            if probe.path is None:
                return ""
            host = f"[{probe.host}]" if ":" in probe.host else probe.host
            connection.sendall(
                f"GET {probe.path} HTTP/1.1\r\nHost: {host}:{probe.port}\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            # "HTTP/1.1 200 OK": a dozen bytes tell, and they arrive together.
            status = connection.recv(64)
    except OSError as error:
        return f"no answer on port {probe.port}: {error.strerror or error}"
    code = status.split(b" ", 2)[1:2]
    if code and code[0][:1] == b"2":
        return ""
    said = code[0].decode("ascii", "replace") if code else "nothing that is HTTP"
    return f"GET {probe.path} on port {probe.port} answered {said[:20]}"


class Prober:
    """The probes of one process. ``successes`` and ``failures`` count those in a row since the last of the other."""

    def __init__(self) -> None:
        self.successes = 0
        self.failures = 0
        self.message = ""
        self._probe: Probe | None = None
        self._thread: threading.Thread | None = None
        self._next_at = 0.0
        self._run = 0

    def watch(self, probe: Probe | None) -> None:
        """Begin anew with this probe; the answer of one that is still on its way is dropped."""
        self._probe = probe
        self.successes, self.failures, self.message = 0, 0, ""
        self._next_at = 0.0
        self._run += 1
        self._thread = None

    def tick(self, now: float, *, eager: bool) -> None:
        """Start the next probe when it is due and the last one is over."""
        if self._probe is None or now < self._next_at or (self._thread is not None and self._thread.is_alive()):
            return
        self._next_at = now + (EAGER_SECONDS if eager else CALM_SECONDS)
        self._thread = threading.Thread(target=self._ask, args=(self._probe, self._run), daemon=True)
        self._thread.start()

    def _ask(self, probe: Probe, run: int) -> None:
        wrong = check(probe)
        if run != self._run:
            return
        if wrong:
            self.successes, self.failures, self.message = 0, self.failures + 1, wrong
        else:
            self.successes, self.failures, self.message = self.successes + 1, 0, ""
