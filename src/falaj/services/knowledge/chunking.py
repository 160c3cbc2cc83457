"""Cuts documents into the passages that are searched and cited; a span always indexes the document's own text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from falaj.services.knowledge.normalise import terms
from falaj.services.knowledge.parsing.document import Heading, ParsedDocument

#: Between the headings of a path: ``Guide › Keys › Revoking``.
HEADING_SEPARATOR = " › "


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage: ``text == document.text[start:end]``; ``heading`` is the path of headings above it."""

    heading: str
    start: int
    end: int
    text: str


def chunk(document: ParsedDocument, characters_max: int) -> list[Piece]:
    """The passages of a document, in order, none longer than ``characters_max``.

    No passage crosses a heading, and the heading's own line is not part of it: it travels in the path. Inside a section
    the text is cut at the highest boundary that fits: blocks, then sentences, then words.
    """
    splitter = TextSplitter(characters_max) if document.prose else MarkdownSplitter(characters_max)
    pieces = []
    for path, start, end in _sections(document):
        for offset, text in splitter.chunk_indices(document.text[start:end]):
            if terms(text):  # rules and ornaments hold no word that anyone could look for
                pieces.append(Piece(path, start + offset, start + offset + len(text), text))
    return pieces


def context(document: ParsedDocument, piece: Piece) -> str:
    """What stands above a passage, for a searcher who sees the passage alone: the title and the path of headings."""
    if not document.title or piece.heading.split(HEADING_SEPARATOR)[0] == document.title:
        return piece.heading
    return HEADING_SEPARATOR.join(filter(None, (document.title, piece.heading)))


def _sections(document: ParsedDocument) -> Iterator[tuple[str, int, int]]:
    """(heading path, start, end) of what stands between headings."""
    headings = document.headings
    yield "", document.body_start, headings[0].start if headings else len(document.text)
    above: list[Heading] = []
    ends = [heading.start for heading in headings[1:]] + [len(document.text)]
    for heading, end in zip(headings, ends, strict=False):
        above = [h for h in above if h.level < heading.level] + [heading]
        yield HEADING_SEPARATOR.join(h.text for h in above if h.text), heading.end, end
