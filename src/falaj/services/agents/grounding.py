"""Where in a passage an answer stands: the sentence to quote, and whether the answer's figures are really there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from falaj.services.knowledge.normalise import digits_to_ascii, terms

QUOTE_CHARACTERS_MAX = 300

#: A sentence ends at ``. ! ? ؟`` before white space, or at a line break.
_SENTENCE_END = re.compile(r"(?<=[.!?؟])\s+|\n+")
_FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text, in characters."""

    start: int
    end: int


def sentences(text: str) -> list[Span]:
    """The sentences of a text, without surrounding white space, in order."""
    spans, start = [], 0
    for end, after in [*((m.start(), m.end()) for m in _SENTENCE_END.finditer(text)), (len(text), len(text))]:
        piece = text[start:end]
        if piece.strip():
            left = start + len(piece) - len(piece.lstrip())
            spans.append(Span(left, left + len(piece.strip())))
        start = after
    return spans


def _words(text: str) -> set[str]:
    return set(terms(text).split())


def quote(passage: str, answer: str, question: str) -> Span:
    """The sentence of the passage that supports the answer best.

    A sentence is weighed by the share of the answer's words in it, then by the question's; headings only win when
    nothing else speaks. At most ``QUOTE_CHARACTERS_MAX`` characters.
    """
    spans = sentences(passage)
    if not spans:
        return Span(0, min(len(passage), QUOTE_CHARACTERS_MAX))
    wanted, asked = _words(answer), _words(question)

    def weight(span: Span) -> tuple[bool, float, float]:
        text = passage[span.start : span.end]
        words = _words(text)
        prose = not text.startswith("#")
        return (
            prose,
            len(wanted & words) / (len(wanted) or 1) + 0.3 * len(asked & words) / (len(asked) or 1),
            -span.start,
        )

    best = max(spans, key=weight)
    return Span(best.start, min(best.end, best.start + QUOTE_CHARACTERS_MAX))


def _figures(text: str) -> set[str]:
    """The numbers in a text, whatever script's digits they are written in."""
    return set(_FIGURE.findall(digits_to_ascii(text)))


def invented_figures(answer: str, passage: str, question: str) -> set[str]:
    """The numbers of an answer that neither the passage nor the question holds: a sure sign that it was made up."""
    return _figures(answer) - _figures(passage) - _figures(question)
