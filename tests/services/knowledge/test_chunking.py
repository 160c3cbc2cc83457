"""Passages: spans are exact, nothing is lost between them, and headings travel along."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.services.knowledge.chunking import chunk, context
from falaj.services.knowledge.normalise import terms
from falaj.services.knowledge.parsing.document import ParsedDocument, Unreadable
from falaj.services.knowledge.parsing.text import markdown_document, parse_markdown, parse_text
from tests.test_tidy import ROOT

HANDBOOK = sorted((ROOT / "docs" / "handbook").glob("*/*.md"))
LINES = st.sampled_from(
    ["# Title", "## Part", "### الجزء", "Plain words. More words!", "نص عربي قصير. جملة ثانية؟", "- item é", "```", "",
     "> quote", "| a | b |", "Underlined", "===", "---", "    code", "😀 wide"]
)  # fmt: skip


def assert_exact(document: ParsedDocument, characters_max: int) -> None:
    pieces = chunk(document, characters_max)
    for piece in pieces:
        assert piece.text == document.text[piece.start : piece.end]
        assert 0 < len(piece.text) <= characters_max
    for one, following in pairwise(pieces):
        assert one.end <= following.start


@given(st.lists(LINES, max_size=40).map("\n".join), st.integers(min_value=20, max_value=300))
@settings(max_examples=200, deadline=None)
def test_spans_are_exact_in_any_markdown(text: str, characters_max: int) -> None:
    assert_exact(markdown_document(text), characters_max)


@given(st.text(min_size=1, max_size=500), st.integers(min_value=20, max_value=200))
@settings(deadline=None)
def test_spans_are_exact_in_any_text(text: str, characters_max: int) -> None:
    assert_exact(ParsedDocument(text, "", (), prose=True), characters_max)


@pytest.mark.parametrize("path", HANDBOOK, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_word_of_the_handbook_is_lost(path: object) -> None:
    document = parse_markdown(path.read_bytes())  # type: ignore[attr-defined]
    assert_exact(document, 700)
    pieces = chunk(document, 700)
    kept = " ".join([piece.text for piece in pieces] + [piece.heading for piece in pieces])
    assert set(terms(document.text).split()) == set(terms(kept).split())


def test_the_path_of_headings_travels_with_the_passage() -> None:
    document = markdown_document("Intro.\n# Guide\nAbout.\n## Keys\nHow.\n### Revoking\nNow.\n## Sites\nWhere.\n")
    assert [(piece.heading, piece.text) for piece in chunk(document, 200)] == [
        ("", "Intro."),
        ("Guide", "About."),
        ("Guide › Keys", "How."),
        ("Guide › Keys › Revoking", "Now."),
        ("Guide › Sites", "Where."),
    ]


def test_a_heading_without_text_makes_no_passage() -> None:
    assert [piece.text for piece in chunk(markdown_document("# A\n\n## B\n\ntext\n\n***\n"), 200)] == ["text\n\n***"]


def test_passages_end_where_sentences_do() -> None:
    sentences = ["هذه جملة عن المنطقة والموقع.", "The key is shown once.", "Le site est un lieu."] * 20
    pieces = chunk(ParsedDocument(" ".join(sentences), "", (), prose=True), 200)
    assert all(piece.text.endswith(".") for piece in pieces)


def test_context_has_the_title_once() -> None:
    titled = markdown_document("---\ntitle: Guide\n---\n# Keys\ntext")
    (piece,) = chunk(titled, 200)
    assert context(titled, piece) == "Guide › Keys"
    plain = markdown_document("# Guide\n## Keys\ntext")
    (piece,) = chunk(plain, 200)
    assert context(plain, piece) == "Guide › Keys"
    untitled = parse_text(b"only text")
    assert context(untitled, chunk(untitled, 200)[0]) == ""


def test_front_matter_is_not_a_passage() -> None:
    document = parse_markdown(b"---\ntitle: T\nsecret: do not index\n---\n\nBody.\n")
    assert [piece.text for piece in chunk(document, 200)] == ["Body."]
    with pytest.raises(Unreadable):
        parse_markdown(b"---\ntitle: T\n---\n\n")
