"""The kind of the agents room: Agent."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from falaj.region.resource import Key, Kind, Name, Scope, SpecModel, StatusModel
from falaj.services.knowledge.kinds import endpoint_key


class AgentSpec(SpecModel):
    """An agent that answers from knowledge bases, with citations, and says so when they do not hold the answer."""

    endpoint: Annotated[str, StringConstraints(pattern=r"^([a-z0-9-]+/)?[a-z0-9.-]+$")]
    """The chat endpoint: ``name`` in the same project, or ``project/name``."""
    knowledge: Annotated[list[Name], Field(min_length=1, max_length=8)]
    """Knowledge bases of the same project."""
    instructions: Annotated[str, StringConstraints(max_length=2000)] = ""
    """Tone and house rules, added to the built-in instructions; they cannot switch off citations or refusal."""
    passages_max: Annotated[int, Field(ge=1, le=10)] = 3
    """How many passages the model reads for a question. On a processor every passage costs seconds."""
    answer_tokens_max: Annotated[int, Field(ge=16, le=2048)] = 160


class AgentStatus(StatusModel):
    """How the agent is called on the OpenAI wire."""

    model: str = ""
    """``agent/NAME``."""


def _references(key: Key, spec: AgentSpec) -> list[Key]:
    knowledge = [Key("KnowledgeBase", key.project, name) for name in spec.knowledge]
    return [endpoint_key(key.project, spec.endpoint), *knowledge]


AGENT = Kind("Agent", "agents", Scope.PROJECT, AgentSpec, AgentStatus, "agents", _references)
