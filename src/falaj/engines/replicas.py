"""Model replicas as processes of the site: what every engine does that runs a model in a worker of its own.

An engine is composed with this; it adds the arguments of its worker and its checks. A worker listens on loopback only
and answers only who shows the site's replica key, so that nobody on the machine passes by the gateway.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from falaj.engines.interface import Probe, Processes, ProcessSpec, ReplicaState
from falaj.errors import Conflict, Terminal

#: A worker holds nothing that must be saved, so it gets little time to go.
STOP_TIMEOUT_SECONDS = 5.0
#: Replicas start after the stores and stop before them.
ORDER = 60


class WorkerReplicas:
    """The replicas of one engine, named ``model-ENGINE-REPLICA`` among the site's processes.

    Args:
        processes: the site's processes.
        engine: the engine's name; its worker is ``python -m falaj.engines.ENGINE.worker``.
        key_file: file of the secret that a worker asks its callers for (``replica_key``).
    """

    def __init__(self, processes: Processes, engine: str, key_file: Path) -> None:
        self._processes = processes
        self._module = f"falaj.engines.{engine}.worker"
        self._prefix = f"model-{engine}-"
        self._key_file = key_file
        self._declared: dict[str, tuple[str, ...]] = {}

    def observe(self, name: str) -> ReplicaState | None:
        """The replica, or None when it is neither declared nor running."""
        process = self._prefix + name
        state = self._processes.observe(process)
        if state is None:
            return None
        port = state.port or self._processes.allocate_port(process)
        return ReplicaState(name, f"http://127.0.0.1:{port}", state.ready, state.pid, state.message)

    def declare(self, name: str, arguments: Sequence[str]) -> None:
        """Have the worker run with these arguments; different ones than before restart it."""
        process = self._prefix + name
        state = self._processes.observe(process)
        if state is not None and state.phase != "backoff" and self._declared.get(name) == tuple(arguments):
            return  # asking whose port it is costs a look at every process of the machine
        port = self._processes.allocate_port(process)
        argv = (sys.executable, "-m", self._module, "--port", str(port), "--key-file", str(self._key_file), *arguments)
        self._processes.create(
            ProcessSpec(
                name=process,
                argv=argv,
                probe=Probe(port, "/health"),
                ports=(port,),
                stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
                order=ORDER,
            )
        )
        self._declared[name] = tuple(arguments)

    def delete(self, name: str) -> None:
        """Stop the replica; a missing one is no error."""
        self._declared.pop(name, None)
        self._processes.delete(self._prefix + name)

    def list(self) -> list[str]:
        """The names of all replicas of this engine, sorted."""
        found = self._processes.observe_all()
        return sorted(name.removeprefix(self._prefix) for name in found if name.startswith(self._prefix))


def replica_key(path: Path) -> str:
    """The secret of this site's replicas, made on the first call; two processes that call at once get the same.

    Raises:
        Terminal: the file can be neither read nor made.
    """
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)  # fails when another process was first: then its key is the key
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        key = path.read_text().strip()
    except OSError as error:
        raise Terminal(
            f"the key of the model replicas cannot be read or made: {error}",
            where=str(path),
            hint="make the folder writable for the account that runs Falaj",
        ) from error
    if len(key) < 16:
        raise Terminal(
            "the key of the model replicas is shorter than 16 characters",
            where=str(path),
            hint="delete the file and restart the region; a new key is made",
        )
    return key


def worker_threads(wanted: int | None) -> int:
    """How many threads a worker computes with: what was asked for, at most the processors it may run on."""
    available = len(os.sched_getaffinity(0))
    return min(wanted or available, available)


def share_processor() -> None:
    """Let a worker step back behind the stores and the gateway. To be called before the engine's library is loaded.

    By default OpenMP's threads spin while they wait for each other; when something else runs on one of their cores, all
    spin for as long as the operating system keeps one away. Asleep they cost nobody anything; for the measurements see
    docs/decisions/0005-models.md.
    """
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.nice(5)


def refuse_taken_port(port: int) -> None:
    """Raise Conflict when something listens on the loopback port: clearer than what the servers say."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise Conflict(f"port {port} cannot be used: {error.strerror}", where=f"127.0.0.1:{port}") from error
