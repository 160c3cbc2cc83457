"""Finds the passages of a knowledge base that answer a question, also in another language than its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from falaj.engines.interface import VectorIndex
from falaj.errors import Invalid, LimitExceeded, NotFound, Transient, nearest
from falaj.region.database import Database
from falaj.region.resource import Key, Resource
from falaj.region.snapshot import Snapshot
from falaj.services.knowledge.documents import DocumentInfo, Documents
from falaj.services.knowledge.fusion import Found, Ranked, fuse
from falaj.services.knowledge.kinds import KNOWLEDGE_BASE, endpoint_key
from falaj.services.knowledge.language import detect
from falaj.services.knowledge.normalise import plain_letters, terms
from falaj.services.models.gateway import Gateway

PASSAGES_MAX = 50
QUERY_CHARACTERS_MAX = 2_000
#: How many candidates each search brings to the fusion.
_CANDIDATES = 50


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that a search found.

    Attributes:
        document: ``bucket/key`` of the object.
        heading: the path of headings above it.
        start: where it begins in the document's extracted text, in characters.
        end: where it ends.
        text: exactly what stands between start and end.
        score: the fused score that ranks.
        dense: the cosine between question and passage, -1 to 1.
        lexical: the BM25 score, 0 when no word matches.
    """

    knowledge_base: str
    document: str
    heading: str
    start: int
    end: int
    text: str
    language: str
    score: float
    dense: float
    lexical: float


class Retriever:
    """Searches knowledge bases and lists their documents."""

    def __init__(self, snapshot: Snapshot, gateway: Gateway, index: VectorIndex, database: Database) -> None:
        self._snapshot = snapshot
        self._gateway = gateway
        self._index = index
        self._documents = Documents(database)

    async def search(self, project: str, knowledge_base: str, query: str, *, limit: int) -> list[Passage]:
        """The passages that fit the question best, those in its own language first where they fit as well.

        Args:
            limit: how many, 1 to 50.

        Raises:
            NotFound: no such knowledge base. Invalid: an empty question. LimitExceeded: question or limit too large.
            Transient: nothing is searchable yet, or an engine is away.
        """
        if not query.strip():
            raise Invalid("the question is empty", where="query")
        if len(query) > QUERY_CHARACTERS_MAX:
            raise LimitExceeded(
                f"the question has {len(query):,} characters; at most {QUERY_CHARACTERS_MAX:,}",
                where="query",
                hint="ask for what you want to know, without the material",
            )
        if not 1 <= limit <= PASSAGES_MAX:
            raise LimitExceeded(f"limit is {limit}; it is 1 to {PASSAGES_MAX}", where="limit")
        resource = self._find(project, knowledge_base)
        if resource.status.documents_ready == 0:
            condition = resource.status.condition()
            why = f": {condition.message}" if condition is not None and condition.message else ""
            raise Transient(
                f"the knowledge base has nothing to search yet{why}",
                where=str(resource.key),
                hint=f"see `falaj describe kb {knowledge_base} --project {project}`",
                retry_after_seconds=5.0,
            )
        endpoint = endpoint_key(project, resource.spec.embedding)
        embedded = await self._gateway.embed(project, endpoint, [plain_letters(query)], input_type="query")
        index = f"{project}.{knowledge_base}"
        ranked = await search_index(
            self._index, index, query, embedded.vectors[0], languages=resource.spec.languages, limit=limit
        )
        return [_passage(knowledge_base, one) for one in ranked]

    async def documents(self, project: str, knowledge_base: str) -> list[DocumentInfo]:
        """The documents that were read, each ready or failed with a reason, by name.

        Raises:
            NotFound: no such knowledge base.
        """
        return await self._documents.list(self._find(project, knowledge_base).key)

    def _find(self, project: str, name: str) -> Resource:
        resource = self._snapshot.find(Key(KNOWLEDGE_BASE.name, project, name))
        if resource is None or resource.deleting:
            names = [known.metadata.name for known in self._snapshot.list(KNOWLEDGE_BASE.name, project)]
            raise NotFound(
                f"there is no knowledge base {name[:80]!r} in the project {project!r}",
                hint=nearest(name, names) or "declare it first: kind KnowledgeBase",
            )
        return resource


async def search_index(
    index: VectorIndex, name: str, query: str, vector: Sequence[float], *, languages: Sequence[str], limit: int
) -> list[Ranked]:
    """Search an index by vector and by words in each language, and fuse what is found."""
    words = terms(query)
    candidates = max(_CANDIDATES, limit)

    async def search(language: str) -> Found:
        dense, lexical = await asyncio.gather(
            index.search_vector(name, vector, limit=candidates, language=language),
            index.search_text(name, words, limit=candidates, language=language),
        )
        return Found(dense, lexical)

    found = await asyncio.gather(*(search(language) for language in languages))
    return fuse(detect(query), dict(zip(languages, found, strict=True)), limit)


def _passage(knowledge_base: str, ranked: Ranked) -> Passage:
    hit = ranked.hit
    return Passage(
        knowledge_base=knowledge_base,
        document=hit.document,
        heading=hit.heading,
        start=hit.start,
        end=hit.end,
        text=hit.text,
        language=hit.language,
        score=round(ranked.score, 4),
        dense=round(ranked.dense, 4),
        lexical=round(ranked.lexical, 4),
    )
