"""Asking an agent about real documents, with the small model: grounds, refusals, languages, bad questions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from falaj import app
from falaj.services.agents.answer import Answerer, Bar
from falaj.services.agents.prompts import refusal
from falaj.services.knowledge.retrieval import Retriever
from falaj.services.models.gateway import Gateway
from falaj.settings import load
from falaj.trust.identity import Principal
from tests.running import RunningRegion

API = "/falaj/v1"
PROJECT = f"{API}/projects/asking"
HANDBOOK = Path(__file__).parents[2] / "docs" / "handbook"
PAGES = ("en/api-keys.md", "en/region.md", "ar/api-keys.md")


@pytest.fixture(scope="module")
def agent(serving: RunningRegion) -> RunningRegion:
    """The region with the agent ``asking/clerk`` over three pages of the handbook."""
    serving.project(
        "asking",
        {"kind": "Bucket", "metadata": {"name": "pages"}, "spec": {}},
        {"kind": "KnowledgeBase", "metadata": {"name": "pages"}, "spec": {"sources": [{"bucket": "pages"}]}},
        {"kind": "Agent", "metadata": {"name": "clerk"}, "spec": {"endpoint": "system/chat", "knowledge": ["pages"]}},
    )
    serving.wait_ready(f"{PROJECT}/buckets/pages")
    for page in PAGES:
        stored = serving.call("PUT", f"{PROJECT}/buckets/pages/objects/{page}", (HANDBOOK / page).read_bytes())
        assert stored.status == 200, stored.data
    serving.wait_ready(f"{PROJECT}/agents/clerk")
    return serving


def ask(region: RunningRegion, question: str, name: str = "clerk") -> dict[str, Any]:
    answer = region.call("POST", f"{PROJECT}/agents/{name}/ask", {"question": question})
    assert answer.status == 200, answer.data
    document: dict[str, Any] = answer.json()
    return document


@asynccontextmanager
async def credulous(region: RunningRegion) -> AsyncIterator[Answerer]:
    """An answerer on the region's own engines that takes every passage: the small model is too unsure a judge."""
    site = app.build(load(home=region.home, port=region.port, s3_port=region.s3_port), "test")
    async with site.database:
        await site.snapshot.start()
        gateway = Gateway(site.snapshot, site.inference)
        retriever = Retriever(site.snapshot, gateway, site.index, site.database)
        yield Answerer(site.snapshot, retriever, gateway, Bar(verdict_min=0.0, verdict_sure=0.0))
        await site.snapshot.close()
        await site.inference.close()


async def test_an_answer_cites_exactly_what_stands_in_the_document(agent: RunningRegion) -> None:
    async with credulous(agent) as answerer:
        principal = Principal("tests", "", None)
        answer = await answerer.ask(principal, "asking", "clerk", "Which command makes a further key?")
    assert not answer.refused
    assert answer.answer
    (citation,) = answer.citations
    assert citation.document == "pages/en/api-keys.md"
    text = (HANDBOOK / "en/api-keys.md").read_text()
    assert text[citation.start : citation.end] == citation.quote
    assert citation.heading.split(" › ")[-1] in text
    assert answer.site == "local-a"
    assert answer.usage.completion_tokens > 1
    assert answer.seconds > 0


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("Who won the football world cup in 2018?", "en"),
        ("Quelle est la recette de la soupe à l'oignon ?", "fr"),
        ("من كتب رواية موسم الهجرة إلى الشمال؟", "ar"),
    ],
)
def test_what_the_documents_do_not_say_is_refused_in_the_language_of_the_question(
    agent: RunningRegion, question: str, language: Any
) -> None:
    answer = ask(agent, question)
    assert answer["refused"], answer
    assert answer["answer"] == refusal(language)
    assert answer["citations"] == []


def test_a_document_that_is_added_later_is_found(agent: RunningRegion) -> None:
    page = "# Canteen\n\n## Opening hours\nThe canteen of the ministry opens at 06:45 and closes at 14:20.\n"
    assert agent.call("PUT", f"{PROJECT}/buckets/pages/objects/en/canteen.md", page.encode()).status == 200
    found: list[dict[str, Any]] = []
    for _ in range(60):
        searched = agent.call("POST", f"{PROJECT}/knowledgebases/pages/search", {"query": "canteen", "limit": 3})
        found = [hit for hit in searched.json()["items"] if hit["document"] == "pages/en/canteen.md"]
        if found:
            break
        time.sleep(0.5)
    assert found, "the new document was not indexed within 30 s"
    best = found[0]
    assert page[best["start"] : best["end"]] == best["text"]
    assert "06:45" in best["text"]


@pytest.mark.parametrize(
    ("question", "status", "says"),
    [("", 400, "character"), ("  \n", 400, "character"), ("why? " * 1000, 413, "characters")],
)
def test_a_question_that_cannot_be_read_is_refused_with_a_reason(
    agent: RunningRegion, question: str, status: int, says: str
) -> None:
    answer = agent.call("POST", f"{PROJECT}/agents/clerk/ask", {"question": question})
    assert answer.status == status, answer.data
    assert says in answer.json()["error"]["message"]


def test_an_agent_that_does_not_exist_is_not_found_and_the_nearest_is_offered(agent: RunningRegion) -> None:
    answer = agent.call("POST", f"{PROJECT}/agents/clark/ask", {"question": "Who?"})
    assert answer.status == 404
    assert "clerk" in answer.json()["error"]["hint"]
