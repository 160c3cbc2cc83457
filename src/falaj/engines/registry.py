"""Which engine is behind which name, and where it is imported from: the one place where an engine is added.

Nothing is imported before it is asked for, so a process pays in memory only for the engines that it uses.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

from falaj.errors import Invalid, nearest

T = TypeVar("T")

#: Name → ``module:attribute`` of what makes it. The comment says which interface it has.
ENGINES: Final[Mapping[str, str]] = {
    "processes": "falaj.engines.supervisor.processes:FileProcesses",  # Processes
    "postgres": "falaj.engines.postgres:site_dsn",  # a libpq connection string
    "seaweedfs": "falaj.engines.seaweedfs.store:SeaweedStore",  # ObjectStore
    "seaweedfs-endpoint": "falaj.engines.seaweedfs.process:site_endpoint",
    "lancedb": "falaj.engines.lancedb_index:LanceIndex",  # VectorIndex
    "llamacpp": "falaj.engines.llamacpp.driver:LlamaCpp",  # ReplicaEngine
    "e5": "falaj.engines.e5.driver:E5",  # ReplicaEngine
    "openai-upstream": "falaj.engines.openai_upstream:OpenAIUpstream",  # Inference
    "replica-key": "falaj.engines.replicas:replica_key",
}


def load(name: str) -> Any:
    """What makes the engine of that name.

    Raises:
        Invalid: there is no such engine; the hint offers the nearest.
    """
    place = ENGINES.get(name)
    if place is None:
        raise Invalid(f"there is no engine {name!r}", hint=nearest(name, ENGINES))
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def lazily(make: Callable[[], T]) -> T:
    """An engine that is made when it is first used; until then it costs nothing."""
    return cast(T, _Lazy(make))


class _Lazy:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    async def close(self) -> None:
        """Close the engine; one that was never made needs no closing."""
        if "_engine" in self.__dict__:
            await self._engine.close()

    def __getattr__(self, name: str) -> Any:
        # Reached only for what is not set yet: the engine's own attributes.
        if "_engine" not in self.__dict__:
            self._engine = self._make()
        return getattr(self._engine, name)
