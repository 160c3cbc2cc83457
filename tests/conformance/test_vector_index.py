"""What every :class:`~falaj.engines.interface.VectorIndex` must do, on a folder and on a real S3."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from falaj.engines.interface import Chunk, IndexDamaged, VectorIndex
from falaj.engines.lancedb_index import LanceIndex
from falaj.errors import Invalid
from tests.seaweed import SeaweedServer

DIMENSIONS = 8
_names = itertools.count(1)

Open = Callable[[], VectorIndex]


@pytest.fixture(params=["lancedb-folder", "lancedb-s3"])
def server(request: pytest.FixtureRequest) -> SeaweedServer | None:
    """The object store of an engine that has one."""
    return request.getfixturevalue("seaweed") if request.param == "lancedb-s3" else None


@pytest.fixture
async def opened(server: SeaweedServer | None, tmp_path: Path) -> Open:
    """Opens the engine; each call is another process's view of the same index."""
    if server is None:
        return lambda: LanceIndex(str(tmp_path))
    store, admin = server.store(), server.endpoint.admin
    bucket = f"conformance.index{next(_names)}"
    await store.create_bucket(bucket)
    return lambda: LanceIndex(f"s3://{bucket}", store.credentials(admin.access_key, admin.secret_key))


@pytest.fixture
async def index(opened: Open) -> VectorIndex:
    made = opened()
    await made.create("p.kb", DIMENSIONS)
    return made


def direction(number: int) -> list[float]:
    """A unit vector, nearer to its neighbours than to others."""
    angle = number * math.pi / 16
    return [math.cos(angle), math.sin(angle), *[0.0] * (DIMENSIONS - 2)]


def piece(document: str, number: int, text: str, language: str = "en") -> Chunk:
    return Chunk(document, language, "H › I", number, number + len(text), text, text.lower(), direction(number))


async def test_an_index_exists_from_create_to_delete(opened: Open) -> None:
    index = opened()
    assert await index.observe("p.kb") is None
    await index.create("p.kb", DIMENSIONS)
    await index.create("p.kb", DIMENSIONS)
    assert await index.observe("p.kb") == 0
    await index.delete("p.kb")
    await index.delete("p.kb")
    assert await index.observe("p.kb") is None


async def test_create_leaves_what_is_there(index: VectorIndex) -> None:
    await index.replace_document("p.kb", "a", [piece("a", 0, "alpha")])
    await index.create("p.kb", DIMENSIONS)
    assert await index.observe("p.kb") == 1


async def test_what_is_put_in_comes_out_as_it_was(index: VectorIndex) -> None:
    wanted = Chunk("b/ملف '1'.md", "ar", 'عنوان › "x"', 3, 12, "نصّ الفقرة", "نص الفقره", direction(2))
    await index.replace_document("p.kb", wanted.document, [wanted])
    for hits in (
        await index.search_vector("p.kb", direction(2), limit=5),
        await index.search_text("p.kb", "الفقره", limit=5),
    ):
        (hit,) = hits
        assert (hit.document, hit.language, hit.heading) == (wanted.document, wanted.language, wanted.heading)
        assert (hit.start, hit.end, hit.text) == (wanted.start, wanted.end, wanted.text)


async def test_vectors_rank_by_cosine(index: VectorIndex) -> None:
    await index.replace_document("p.kb", "a", [piece("a", number, f"text {number}") for number in range(8)])
    hits = await index.search_vector("p.kb", [value * 3 for value in direction(2)], limit=3)
    assert hits[0].start == 2
    assert {hit.start for hit in hits} == {1, 2, 3}
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert hits[1].score == pytest.approx(math.cos(math.pi / 16), abs=1e-5)


async def test_words_rank_by_how_rare_they_are(index: VectorIndex) -> None:
    texts = ["common water channel", "common water farm", "common water falcon", "common sand"]
    await index.replace_document("p.kb", "a", [piece("a", number, text) for number, text in enumerate(texts)])
    hits = await index.search_text("p.kb", "common falcon", limit=4)
    assert hits[0].text == "common water falcon"
    assert hits[0].score > hits[1].score > 0
    assert len(await index.search_text("p.kb", "common", limit=2)) == 2


async def test_languages_are_apart(index: VectorIndex) -> None:
    await index.replace_document("p.kb", "a", [piece("a", 0, "region", "en"), piece("a", 1, "region", "fr")])
    for language in ("en", "fr"):
        assert [hit.language for hit in await index.search_text("p.kb", "region", limit=5, language=language)] == [
            language
        ]
        hits = await index.search_vector("p.kb", direction(0), limit=5, language=language)
        assert [hit.language for hit in hits] == [language]
    assert await index.search_vector("p.kb", direction(0), limit=5, language="ar") == []
    with pytest.raises(Invalid):
        await index.search_vector("p.kb", direction(0), limit=5, language="en' OR 'a' = 'a")


async def test_a_document_is_replaced_as_a_whole(index: VectorIndex) -> None:
    await index.replace_document("p.kb", "a", [piece("a", number, f"old {number}") for number in range(5)])
    await index.replace_document("p.kb", "b", [piece("b", 0, "other")])
    await index.replace_document("p.kb", "a", [piece("a", 0, "new"), piece("a", 1, "newer")])
    assert await index.observe("p.kb") == 3
    assert await index.search_text("p.kb", "old", limit=5) == []
    await index.replace_document("p.kb", "a", [piece("a", 0, "new"), piece("a", 1, "newer")])
    assert await index.observe("p.kb") == 3
    await index.replace_document("p.kb", "a", [])
    assert [hit.document for hit in await index.search_vector("p.kb", direction(0), limit=5)] == ["b"]


async def test_names_do_not_leak_into_one_another(index: VectorIndex) -> None:
    names = ["a", "a'b", "a''b", "a' OR '1'='1", "a%", "a_", "ا", "A"]
    for number, name in enumerate(names):
        await index.replace_document("p.kb", name, [piece(name, number, "text")])
    for left, name in enumerate(names, start=1):
        await index.replace_document("p.kb", name, [])
        assert await index.observe("p.kb") == len(names) - left


async def test_another_process_sees_what_was_written_a_moment_ago(opened: Open, index: VectorIndex) -> None:
    reader = opened()
    for number in range(4):
        await index.replace_document("p.kb", f"d{number}", [piece(f"d{number}", number, f"wordnumber{number}")])
        assert await reader.observe("p.kb") == number + 1
        assert len(await reader.search_text("p.kb", f"wordnumber{number}", limit=1)) == 1
        if number == 1:
            await index.optimise("p.kb")
    await index.delete("p.kb")
    assert await reader.observe("p.kb") is None
    await index.create("p.kb", DIMENSIONS)
    await index.replace_document("p.kb", "again", [piece("again", 0, "fresh")])
    assert [hit.document for hit in await reader.search_vector("p.kb", direction(0), limit=5)] == ["again"]
    assert await reader.search_text("p.kb", "wordnumber1", limit=5, language="en") == []


async def test_two_writers_lose_nothing(opened: Open, index: VectorIndex) -> None:
    other = opened()
    await asyncio.gather(
        *(
            writer.replace_document("p.kb", f"{name}{number}", [piece(f"{name}{number}", number, "text")])
            for name, writer in (("a", index), ("b", other))
            for number in range(3)
        )
    )
    assert await opened().observe("p.kb") == 6


async def test_optimising_changes_no_answer(index: VectorIndex) -> None:
    for number in range(12):
        await index.replace_document("p.kb", f"d{number}", [piece(f"d{number}", number, f"water {number} text")])
    await index.replace_document("p.kb", "d3", [])
    before = (
        await index.search_text("p.kb", "water text", limit=20),
        await index.search_vector("p.kb", direction(1), limit=4),
    )
    await index.optimise("p.kb")
    await index.optimise("p.kb")
    after = (
        await index.search_text("p.kb", "water text", limit=20),
        await index.search_vector("p.kb", direction(1), limit=4),
    )
    assert {hit.document for hit in before[0]} == {hit.document for hit in after[0]}
    assert before[1] == after[1]
    assert await index.observe("p.kb") == 11


async def test_what_does_not_exist(opened: Open) -> None:
    index = opened()
    assert await index.search_vector("p.none", direction(0), limit=3) == []
    assert await index.search_text("p.none", "word", limit=3) == []
    await index.optimise("p.none")
    with pytest.raises(IndexDamaged):
        await index.replace_document("p.none", "a", [piece("a", 0, "text")])
    with pytest.raises(Invalid):
        await index.observe("../escape")


async def test_no_words_find_nothing(index: VectorIndex) -> None:
    await index.replace_document("p.kb", "a", [piece("a", 0, "text")])
    assert await index.search_text("p.kb", "  ", limit=3) == []
    assert await index.search_text("p.kb", "zzzz qqqq", limit=3) == []


async def test_other_dimensions_start_anew(index: VectorIndex) -> None:
    await index.replace_document("p.kb", "a", [piece("a", 0, "text")])
    await index.create("p.kb", DIMENSIONS * 2)
    assert await index.observe("p.kb") == 0
