"""What an agent's condition says about what it needs."""

from __future__ import annotations

from typing import Any

from falaj.region.admission import Admission
from falaj.region.database import Database
from falaj.region.resource import Key, Resource
from falaj.region.store import Store
from falaj.services.agents.controller import AgentController
from falaj.trust.identity import Principal
from tests.services.reconciling import reconciling, set_status, until, until_gone

AGENT = Key("Agent", "claims", "clerk")
ENDPOINT = Key("Endpoint", "system", "qwen")
KNOWLEDGE = Key("KnowledgeBase", "claims", "policies")


def manifest(kind: str, name: str, project: str = "", **spec: Any) -> dict[str, Any]:
    owner = {"project": project} if project else {}
    return {"apiVersion": "falaj/v1", "kind": kind, "metadata": {"name": name, **owner}, "spec": spec}


def reason(resource: Resource) -> str:
    condition = resource.status.condition()
    return condition.reason if condition else ""


async def test_an_agent_follows_what_it_needs(
    database: Database, store: Store, admission: Admission, admin: Principal
) -> None:
    await admission.apply(
        admin,
        [
            manifest("Project", "claims"),
            manifest("Bucket", "papers", "claims"),
            manifest("KnowledgeBase", "policies", "claims", sources=[{"bucket": "papers"}]),
            manifest("Endpoint", "qwen", "system", model="qwen2.5-coder-0.5b-instruct"),
            manifest("Agent", "clerk", "claims", endpoint="qwen", knowledge=["policies"]),
        ],
    )
    async with reconciling(database, store, AgentController(store)):
        missing = await until(store, AGENT, lambda agent: reason(agent) == "Missing", seconds=20)
        assert "did you mean system/qwen?" in missing.status.condition().message

        await admission.apply(
            admin, [manifest("Agent", "clerk", "claims", endpoint="system/qwen", knowledge=["policies"])]
        )
        waiting = await until(store, AGENT, lambda agent: reason(agent) == "Waiting", seconds=20)
        assert str(KNOWLEDGE) in waiting.status.condition().message

        await set_status(database, ENDPOINT)
        await set_status(database, KNOWLEDGE)
        await store.touch(AGENT)
        ready = await until(store, AGENT, lambda agent: agent.status.ready, seconds=20)
        assert ready.status.model == "agent/clerk"

        await admission.delete(admin, AGENT)
        await until_gone(store, AGENT)
