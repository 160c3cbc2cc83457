"""``Processes`` of ``engines/interface.py`` by files: what should run lies in ``processes/``, what runs in ``state/``.

Whoever declares and the supervisor share nothing but these folders, so each can be killed at any time. Every file is
replaced whole (written aside, synced, renamed), hence a reader never sees half of one.

Usage::

    processes = FileProcesses(site_dir)
    port = processes.allocate_port("model-qwen")
    processes.create(ProcessSpec(name="model-qwen", argv=(...), probe=Probe(port, "/health"), ports=(port,)))
    processes.observe("model-qwen")      # ProcessState(phase="starting", …), later "ready"
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import Any, Literal

from falaj.engines.interface import Probe, ProcessSpec, ProcessState
from falaj.engines.supervisor import procfs
from falaj.errors import Conflict, Invalid, LimitExceeded, NotFound

#: Ports given to purposes without a preference: below the range that Linux takes for outgoing connections (32768…).
PORTS = range(21000, 30000)

#: More declared processes than this on one machine is a mistake somewhere.
PROCESSES_MAX = 512

_NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,118}[a-z0-9])?$")
_log = logging.getLogger(__name__)

Phase = Literal["starting", "running", "ready", "backoff", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class StateRecord:
    """What the supervisor writes about a process: the state for others, and what a later supervisor needs to adopt it.

    ``start_ticks`` is the kernel's start time of ``pid``; ``digest`` names the declaration it was started from; the
    last three say how to stop it, also once the declaration is gone.
    """

    name: str
    phase: Phase
    pid: int | None
    start_ticks: int | None
    port: int | None
    restarts: int
    message: str
    started_at: float | None
    digest: str
    stop_signal: str
    stop_timeout_seconds: float
    order: int

    def as_state(self) -> ProcessState:
        """The state as the interface shows it; a process that died since is never shown as running."""
        phase, pid, message = self.phase, self.pid, self.message
        if pid is not None and self.start_ticks is not None and not procfs.alive(pid, self.start_ticks):
            pid = None
            phase = "stopped" if phase == "stopping" else "backoff"
            message = "it has ended" if phase == "stopped" else "it has ended; the supervisor will start it again"
        started_at = None if self.started_at is None else datetime.fromtimestamp(self.started_at, UTC)
        return ProcessState(self.name, phase, pid, self.port, self.restarts, message, started_at)


def encode_spec(spec: ProcessSpec) -> bytes:
    """The declaration as it lies in its file: the same spec always gives the same bytes."""
    return json.dumps(asdict(spec), sort_keys=True, indent=1).encode() + b"\n"


def decode_spec(content: bytes) -> ProcessSpec:
    """Read what :func:`encode_spec` wrote.

    Raises:
        ValueError: the content is something else.
    """
    try:
        fields: dict[str, Any] = json.loads(content)
        probe = fields.pop("probe", None)
        return ProcessSpec(
            **{
                **fields,
                "argv": tuple(fields["argv"]),
                "ports": tuple(fields.get("ports", ())),
                "probe": None if probe is None else Probe(**probe),
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a process declaration: {error}") from error


def digest(content: bytes) -> str:
    """The name of a declaration's content; a process whose declaration has another is restarted."""
    return hashlib.sha256(content).hexdigest()[:32]


def read_record(path: Path) -> StateRecord | None:
    """The supervisor's record in that file; None when there is none, or none that makes sense."""
    try:
        return StateRecord(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_record(path: Path, record: StateRecord) -> None:
    """Replace the record. It is not synced: after a power cut no process of it runs any more."""
    replace_file(path, json.dumps(asdict(record)).encode(), sync=False)


def replace_file(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Put ``content`` in the place of the file, at once and whole, readable by its owner alone."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as target:
        target.write(content)
        target.flush()
        if sync:
            os.fsync(target.fileno())
    aside.replace(path)
    if sync:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class FileProcesses:
    """The processes of one site, declared in files under ``site_dir``; safe to use from several processes at once."""

    def __init__(self, site_dir: Path) -> None:
        self._site_dir = site_dir
        self._specs = site_dir / "processes"
        self._states = site_dir / "state"
        self._ports = site_dir / "ports.json"

    def observe(self, name: str) -> ProcessState | None:
        """The process as last seen, or None when it is neither declared nor running."""
        record = read_record(self._states / f"{self._check(name)}.json")
        content = self._read_content(name)
        if content is None or (record is not None and record.digest == digest(content)):
            return None if record is None else record.as_state()
        if record is not None and record.phase != "stopped":
            # What runs still runs from an earlier declaration, so it is not what was asked for.
            return replace(record.as_state(), phase="starting", message="declared anew, not restarted yet")
        return ProcessState(name, "starting", None, _main_port(content), 0, "declared, not started yet")

    def observe_all(self) -> dict[str, ProcessState]:
        """Every process that is declared or running, by name."""
        files = [*self._specs.glob("*.json"), *self._states.glob("*.json")]
        names = sorted({path.stem for path in files if not path.name.startswith(".")})
        seen = {name: self.observe(name) for name in names if _NAME.fullmatch(name)}
        return {name: state for name, state in seen.items() if state is not None}

    def create(self, spec: ProcessSpec) -> None:
        """Declare a process. Declaring the same again changes nothing; a different spec restarts it.

        Raises:
            Invalid: the name is not one. LimitExceeded: there are too many processes already.
        """
        path = self._specs / f"{self._check(spec.name)}.json"
        content = encode_spec(spec)
        try:
            if path.read_bytes() == content:
                return
        except FileNotFoundError:
            if sum(1 for _ in self._specs.glob("*.json")) >= PROCESSES_MAX:
                raise LimitExceeded(
                    f"a site runs at most {PROCESSES_MAX} processes", where=str(self._specs), hint="delete some first"
                ) from None
        self._specs.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)

    def delete(self, name: str) -> None:
        """Withdraw a process; the supervisor stops it. Withdrawing what is not there changes nothing."""
        (self._specs / f"{self._check(name)}.json").unlink(missing_ok=True)

    def allocate_port(self, purpose: str, preferred: int | None = None) -> int:
        """A loopback port for ``purpose``, the same at every call until something foreign takes it.

        Raises:
            Conflict: ``preferred`` is given and is taken by a process that is not ours; the message says which.
            LimitExceeded: every port of the range is taken.
        """
        with self._locked_ports() as ports:
            if preferred is not None:
                self._check_preferred(ports, purpose, preferred)
                ports[purpose] = preferred
                return preferred
            known = ports.get(purpose)
            if known is not None:
                if _is_free(known) or self._is_ours(known):
                    return known
                _log.warning("port %d of %r was taken by %s: choosing another", known, purpose, _holder_text(known))
            ports[purpose] = _choose(set(ports.values()))
            return ports[purpose]

    def port(self, purpose: str) -> int:
        """The port that ``purpose`` was given before.

        Raises:
            NotFound: it has none yet.
        """
        try:
            return int(json.loads(self._ports.read_bytes())[purpose])
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise NotFound(
                f"no port was given to {purpose!r}", where=str(self._ports), hint="start the site with `falaj up`"
            ) from error

    def _check_preferred(self, ports: dict[str, int], purpose: str, preferred: int) -> None:
        other = next((name for name, port in ports.items() if port == preferred and name != purpose), None)
        if other is not None:
            raise Conflict(f"port {preferred} is wanted for {purpose!r}, but {other!r} has it", where=str(self._ports))
        if not _is_free(preferred) and not self._is_ours(preferred):
            raise Conflict(f"port {preferred} is taken by {_holder_text(preferred)}", where=f"127.0.0.1:{preferred}")

    def _is_ours(self, port: int) -> bool:
        """Whether the process that listens there is one that the supervisor of this site started."""
        listeners = procfs.listening(port)
        for path in self._states.glob("*.json"):
            record = read_record(path)
            if record is None or not record.pid or not procfs.alive(record.pid, record.start_ticks or 0):
                continue
            held = procfs.sockets(record.pid)
            if held is None:
                # It runs as another account, and containers may forbid even root to look: its declaration must do.
                content = self._read_content(record.name)
                if content is not None and port in decode_spec(content).ports:
                    return True
            elif held & listeners:
                return True
        return False

    def _read_content(self, name: str) -> bytes | None:
        try:
            return (self._specs / f"{name}.json").read_bytes()
        except FileNotFoundError:
            return None

    @contextmanager
    def _locked_ports(self) -> Iterator[dict[str, int]]:
        """The port table under a lock between processes; what the block changed in it is saved."""
        self._site_dir.mkdir(parents=True, exist_ok=True)
        with (self._site_dir / "ports.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                before = self._ports.read_bytes()
                ports: dict[str, int] = json.loads(before)
            except (FileNotFoundError, ValueError):
                before, ports = b"", {}
            yield ports
            after = json.dumps(ports, sort_keys=True, indent=1).encode() + b"\n"
            if after != before:
                replace_file(self._ports, after)

    @staticmethod
    def _check(name: str) -> str:
        if not _NAME.fullmatch(name):
            raise Invalid(
                f"{name[:80]!r} is not a process name",
                hint="1 to 120 lowercase letters, digits, dots and hyphens; a letter or a digit first and last",
            )
        return name


def _main_port(content: bytes) -> int | None:
    try:
        spec = decode_spec(content)
    except ValueError:
        return None
    if spec.probe is not None:
        return spec.probe.port
    return spec.ports[0] if spec.ports else None


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        # Connections that linger after their end do not count; Linux still refuses where somebody listens.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _choose(taken: set[int]) -> int:
    # A random beginning keeps two sites on one machine from reaching for the same ports at the same time.
    start = SystemRandom().randrange(len(PORTS))
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        if port not in taken and _is_free(port):
            return port
    raise LimitExceeded(
        f"every port from {PORTS.start} to {PORTS.stop - 1} is taken",
        where="127.0.0.1",
        hint="stop something that listens",
    )


def _listener(port: int) -> int | None:
    """The pid that listens on the port, where this process may see it."""
    import psutil  # noqa: PLC0415 -- the supervisor imports this module and stays small without it

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    listening = (c for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port)
    return next((c.pid for c in listening if c.pid), None)


def _holder_text(port: int) -> str:
    import psutil  # noqa: PLC0415 -- as above

    pid = _listener(port)
    if pid is None:
        return "a process that this account may not see"
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        command = ""
    return f"process {pid} ({command[:120]})" if command else f"process {pid}"
