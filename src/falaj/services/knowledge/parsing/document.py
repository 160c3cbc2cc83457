"""What every parser returns, and how it says that it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from falaj.errors import Invalid

#: The longest text of one document; about 2,000 dense pages.
TEXT_CHARACTERS_MAX = 8_000_000

Format = Literal["markdown", "text", "html", "pdf"]

#: Stable words that say why a document cannot be read.
Reason = Literal[
    "Empty", "Encrypted", "Corrupt", "TooLarge", "TooManyPages", "UnsupportedType", "TimedOut", "NoText", "NotText"
]


class Unreadable(Invalid):
    """A document cannot be turned into text. ``reason`` is a stable word, ``message`` the sentence for people."""

    def __init__(self, reason: Reason, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of the document, or a page of one that has none.

    Attributes:
        level: 1 is the highest.
        text: as readers see it, without markup.
        start: where it begins in the document's text, in characters.
        end: where what it heads begins.
    """

    level: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document as text.

    Attributes:
        text: what spans of citations index. For Markdown and plain text this is the file itself, decoded.
        title: what the document calls itself; empty when it does not.
        headings: in order of position.
        body_start: where the content begins, after front matter.
        prose: whether line breaks and ``#`` are only typography (plain text, PDF), not Markdown.
        language: what the document declares, if it does.
    """

    text: str
    title: str
    headings: tuple[Heading, ...]
    body_start: int = 0
    prose: bool = False
    language: str | None = None


def checked(document: ParsedDocument) -> ParsedDocument:
    """Return the document when it has text of an acceptable length.

    Raises:
        Unreadable: ``Empty`` or ``TooLarge``.
    """
    if not document.text[document.body_start :].strip():
        raise Unreadable("Empty", "the document holds no text")
    if len(document.text) > TEXT_CHARACTERS_MAX:
        raise Unreadable(
            "TooLarge",
            f"the document's text has {len(document.text):,} characters; at most {TEXT_CHARACTERS_MAX:,} are read",
            hint="split it into several documents",
        )
    return document
