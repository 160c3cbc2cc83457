"""The rows about documents, and that only the holder of the lease writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.errors import Conflict
from falaj.region.database import Connection, Database
from falaj.region.resource import Key
from falaj.services.knowledge.documents import Documents, Outcome, pack, unpack

BASE, OTHER = Key("KnowledgeBase", "p", "kb"), Key("KnowledgeBase", "q", "kb")


async def proven(_: Connection) -> None:
    """A lease that is held."""


async def lost(_: Connection) -> None:
    raise Conflict("the lease was lost")


@pytest.fixture
def documents(database: Database) -> Documents:
    return Documents(database)


def outcome(name: str, **fields: object) -> Outcome:
    return Outcome(name, etag="e1", recipe="r1", size_bytes=10, **fields)  # type: ignore[arg-type]


async def test_rows_say_how_it_went(documents: Documents) -> None:
    await documents.record(BASE, outcome("b/one", title="T", language="ar", chunks=3), proven)
    await documents.record(BASE, outcome("b/two", reason="Corrupt", message="broken"), proven)
    await documents.record(OTHER, outcome("b/one", chunks=9), proven)
    one, two = await documents.list(BASE)
    assert (one.document, one.state, one.title, one.language, one.chunks) == ("b/one", "ready", "T", "ar", 3)
    assert (two.document, two.state, two.reason, two.message) == ("b/two", "failed", "Corrupt", "broken")
    await documents.record(BASE, outcome("b/two", chunks=1), proven)
    assert [(row.state, row.reason) for row in await documents.list(BASE)] == [("ready", ""), ("ready", "")]


async def test_when_a_failed_document_is_due(documents: Documents) -> None:
    await documents.record(BASE, outcome("never", reason="Corrupt"), proven)
    await documents.record(BASE, outcome("now", reason="Transient", attempts=1, retry_seconds=0.0), proven)
    await documents.record(BASE, outcome("later", reason="Transient", attempts=2, retry_seconds=60.0), proven)
    assert {name: row.due for name, row in (await documents.known(BASE)).items()} == {
        "never": False,
        "now": True,
        "later": False,
    }


async def test_who_lost_the_lease_writes_nothing(documents: Documents) -> None:
    await documents.record(BASE, outcome("kept"), proven)
    for write in (
        documents.record(BASE, outcome("new"), lost),
        documents.forget(BASE, "kept", lost),
        documents.forget_all(BASE, lost, vectors=True),
        documents.prove(lost),
    ):
        with pytest.raises(Conflict):
            await write
    assert set(await documents.known(BASE)) == {"kept"}


async def test_vectors_are_kept_until_their_passage_is_gone(documents: Documents) -> None:
    vectors = {b"a": [0.5, -0.25], b"b": [1.0, 0.0]}
    await documents.keep_vectors(BASE, "d", vectors)
    await documents.keep_vectors(BASE, "d", {b"a": [9.0, 9.0]})
    await documents.keep_vectors(BASE, "other", vectors)
    assert {digest: list(v) for digest, v in (await documents.vectors(BASE, "d")).items()} == vectors
    await documents.prune_vectors(BASE, "d", [b"b"])
    assert set(await documents.vectors(BASE, "d")) == {b"b"}
    assert set(await documents.vectors(BASE, "other")) == {b"a", b"b"}


async def test_forgetting(documents: Documents) -> None:
    for base in (BASE, OTHER):
        for name in ("one", "two"):
            await documents.record(base, outcome(name), proven)
            await documents.keep_vectors(base, name, {b"x": [1.0]})
    await documents.forget(BASE, "one", proven)
    assert set(await documents.known(BASE)) == {"two"}
    assert await documents.vectors(BASE, "one") == {}
    await documents.forget_all(BASE, proven, vectors=False)
    assert (await documents.known(BASE), set(await documents.vectors(BASE, "two"))) == ({}, {b"x"})
    await documents.forget_all(BASE, proven, vectors=True)
    assert await documents.vectors(BASE, "two") == {}
    assert set(await documents.known(OTHER)) == {"one", "two"}


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_vectors_survive_packing(vector: list[float]) -> None:
    assert list(unpack(pack(vector))) == vector
    assert len(pack(vector)) == 4 * len(vector)
