"""Tells whether an agent can answer: its endpoint and knowledge bases are ready. It has no process of its own."""

from __future__ import annotations

from falaj.region.reconciler import Result, Work
from falaj.region.resource import SYSTEM_PROJECT, Key, Resource
from falaj.region.store import Store
from falaj.services.agents.kinds import AGENT, AgentSpec, AgentStatus
from falaj.services.knowledge.kinds import endpoint_key


class AgentController:
    """Reports ``Ready`` when everything an agent needs is; it is woken by their news."""

    kind = AGENT.name
    resync_seconds = 60.0

    def __init__(self, store: Store) -> None:
        self._store = store

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """One look at what the agent refers to."""
        if resource.deleting:
            return Result(gone=True)
        spec: AgentSpec = resource.spec
        status: AgentStatus = resource.status
        status.model = f"agent/{resource.metadata.name}"
        project = resource.metadata.project
        needed = [
            endpoint_key(project, spec.endpoint),
            *(Key("KnowledgeBase", project, name) for name in spec.knowledge),
        ]
        found = [(key, await self._store.find(key)) for key in needed]
        missing = [f"{key}{await self._elsewhere(key)}" for key, other in found if other is None]
        waiting = [str(key) for key, other in found if other is not None and not other.status.ready]
        if missing:
            status.set_condition("False", "Missing", f"not declared: {', '.join(missing)}")
        elif waiting:
            status.set_condition("False", "Waiting", f"not ready yet: {', '.join(waiting)}")
        else:
            status.set_condition(
                "True", "Answering", f"call it as model {status.model}, or: falaj ask {resource.metadata.name}"
            )
        return Result()

    async def _elsewhere(self, key: Key) -> str:
        """A hint when an endpoint is missing here and stands in the project that serves all others."""
        shared = Key(key.kind, SYSTEM_PROJECT, key.name)
        return f" (did you mean {shared.project}/{shared.name}?)" if await self._store.find(shared) else ""
