"""Questions in three languages against one knowledge base, with the real embedder and index."""

from __future__ import annotations

import asyncio

import pytest

from falaj.errors import Invalid, LimitExceeded, NotFound, Transient
from falaj.services.knowledge import retrieval
from falaj.services.knowledge.ingestion import text_key
from falaj.services.storage.objects import TEXTS_BUCKET
from tests.services.knowledge.conftest import Library
from tests.services.knowledge.test_controller import settled
from tests.services.reconciling import reconciling, until

PAGES = {
    "en/turns.md": "# Turns\n\nEach farm receives the water for three hours, and a turn lasts seven days.\n",
    "ar/turns.md": "# الدورات\n\nتأخذ كل مزرعة الماء ثلاث ساعات، وتستمر الدورة سبعة أيام.\n",
    "fr/turns.md": "# Les tours\n\nChaque ferme reçoit l'eau pendant trois heures, et un tour dure sept jours.\n",
    "en/repairs.md": "# Repairs\n\nThe channel is cleaned in March and in October by one worker of each farm.\n",
    "fr/book.md": "# Le livre\n\nLe gardien inscrit chaque part dans le livre, que la mosquée conserve.\n",
    "en/dates.md": "# Dates\n\nThe palm trees of the oasis give dates in August.\n",
}


@pytest.fixture
async def filled(library: Library) -> Library:
    """Six pages; two of them exist in one language only."""
    for key, text in PAGES.items():
        await library.put(key, text)
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, settled(len(PAGES)))
    await until_seen(library)
    return library


async def until_seen(library: Library) -> None:
    """Return when the snapshot, which may be behind the store, has the documents."""
    async with asyncio.timeout(10):
        while not ((found := library.snapshot.find(library.key)) and found.status.documents_ready):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("question", "documents"),
    [
        ("How long does a turn last?", ["docs/en/turns.md"]),
        ("كم تستمر الدورة؟", ["docs/ar/turns.md"]),
        ("Combien de jours dure un tour ?", ["docs/fr/turns.md"]),
        ("متى يُنظف الفلج ومن يرسل العمال؟", ["docs/en/repairs.md"]),
        ("Quand nettoie-t-on le canal ?", ["docs/en/repairs.md"]),
        ("Who keeps the book of shares?", ["docs/fr/book.md"]),
    ],
)
async def test_the_right_passage_in_the_right_language(filled: Library, question: str, documents: list[str]) -> None:
    passages = await filled.retriever.search(filled.project, "kb", question, limit=3)
    assert passages[0].document in documents
    assert len(passages) == 3
    assert [passage.score for passage in passages] == sorted((p.score for p in passages), reverse=True)
    best = passages[0]
    assert best.knowledge_base == "kb"
    assert 0.7 < best.dense < 1.0
    text = (await filled.objects.get(TEXTS_BUCKET, text_key(filled.key, best.document))).decode()
    assert text[best.start : best.end] == best.text


async def test_raw_scores_are_passed_on(filled: Library) -> None:
    (near,) = await filled.retriever.search(filled.project, "kb", "How long does a turn last?", limit=1)
    (far,) = await filled.retriever.search(filled.project, "kb", "Which planet has two moons?", limit=1)
    assert near.dense > far.dense + 0.03
    assert near.lexical > 0


async def test_spelling_does_not_matter_in_arabic(filled: Library) -> None:
    for question in ("كَمْ تَسْتَمِرُّ الدَّوْرَةُ؟", "كم تستمر الدوره", "كـــم تستمر الدورة"):
        (passage,) = await filled.retriever.search(filled.project, "kb", question, limit=1)
        assert passage.document == "docs/ar/turns.md"


async def test_documents_are_listed(filled: Library) -> None:
    listed = await filled.retriever.documents(filled.project, "kb")
    assert [info.document for info in listed] == sorted(f"docs/{key}" for key in PAGES)
    assert {(info.state, info.chunks) for info in listed} == {("ready", 1)}
    assert {info.document: info.language for info in listed}["docs/ar/turns.md"] == "ar"
    assert {info.document: info.title for info in listed}["docs/fr/book.md"] == "Le livre"


async def test_limits(filled: Library) -> None:
    with pytest.raises(Invalid):
        await filled.retriever.search(filled.project, "kb", " \n", limit=3)
    with pytest.raises(LimitExceeded):
        await filled.retriever.search(filled.project, "kb", "x" * (retrieval.QUERY_CHARACTERS_MAX + 1), limit=3)
    for limit in (0, -1, retrieval.PASSAGES_MAX + 1):
        with pytest.raises(LimitExceeded):
            await filled.retriever.search(filled.project, "kb", "question", limit=limit)
    longest = "water " * (retrieval.QUERY_CHARACTERS_MAX // 6)
    assert len(await filled.retriever.search(filled.project, "kb", longest, limit=retrieval.PASSAGES_MAX)) == len(PAGES)


async def test_odd_questions_are_only_questions(filled: Library) -> None:
    for question in ('AND OR NOT ( "', "turn' OR '1'='1", "؟؟؟", "😀", "a:b^2~", "\u202e\u0000turn"):
        assert len(await filled.retriever.search(filled.project, "kb", question, limit=2)) == 2


async def test_what_does_not_exist_and_what_is_not_searchable_yet(library: Library) -> None:
    with pytest.raises(NotFound):
        await library.retriever.search(library.project, "kb", "question", limit=3)
    await library.declare()
    async with asyncio.timeout(10):
        while library.snapshot.find(library.key) is None:
            await asyncio.sleep(0.02)
    with pytest.raises(Transient) as caught:
        await library.retriever.search(library.project, "kb", "question", limit=3)
    assert "nothing to search yet" in caught.value.message
    with pytest.raises(NotFound) as missing:
        await library.retriever.search(library.project, "bk", "question", limit=3)
    assert "kb" in missing.value.hint
    with pytest.raises(NotFound):
        await library.retriever.documents("elsewhere", "kb")
