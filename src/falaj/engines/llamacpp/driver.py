"""Runs copies of a GGUF model."""

from __future__ import annotations

import asyncio
from pathlib import Path

from falaj.engines.interface import Processes, ReplicaSpec, ReplicaState
from falaj.engines.replicas import WorkerReplicas
from falaj.errors import Terminal

#: The first four bytes of every GGUF file.
GGUF_MAGIC = b"GGUF"


class LlamaCpp:
    """The replica engine of GGUF files."""

    def __init__(self, processes: Processes, key_file: Path) -> None:
        self._replicas = WorkerReplicas(processes, "llamacpp", key_file)

    async def observe(self, name: str) -> ReplicaState | None:
        """The replica, or None when it is neither declared nor running."""
        return self._replicas.observe(name)

    async def create(self, spec: ReplicaSpec) -> None:
        """Run the replica; running the same spec again changes nothing.

        Raises:
            Terminal: the file cannot be read or is not GGUF.
        """
        path = await asyncio.to_thread(_checked, spec.path)
        arguments = ["--model", str(path), "--alias", spec.alias]
        arguments += ["--context-tokens", str(spec.context_tokens_max), "--concurrency", str(spec.concurrency_max)]
        if spec.threads is not None:
            arguments += ["--threads", str(spec.threads)]
        if spec.idle_seconds_max is not None:
            arguments += ["--idle-seconds", str(spec.idle_seconds_max)]
        self._replicas.declare(spec.name, arguments)

    async def update(self, spec: ReplicaSpec) -> None:
        """Bring a running replica to ``spec``; a change restarts it."""
        await self.create(spec)

    async def delete(self, name: str) -> None:
        """Stop the replica; a missing one is no error."""
        self._replicas.delete(name)

    async def list(self) -> list[str]:
        """The names of all replicas that this engine runs."""
        return self._replicas.list()


def _checked(path: Path | None) -> Path:
    if path is None:
        raise Terminal("llama.cpp carries no weights of its own", hint="name a model of format 'gguf'")
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise Terminal(
            f"the model file cannot be read: {error.strerror or error}", where=str(path), hint="pull the model again"
        ) from error
    if magic != GGUF_MAGIC:
        raise Terminal("the model file is not in GGUF format", where=str(path), hint="give a file that ends in .gguf")
    return path
