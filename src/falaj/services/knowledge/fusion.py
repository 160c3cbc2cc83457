"""One ranking out of what meaning and words find, in the question's own language and in others.

Three things were measured (docs/decisions/0006-knowledge.md): a vector and a full-text score together rank better than
either; the cosine between languages lies lower than within one; and the words of a question hardly occur in a text of
another language, so there they should count for little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from falaj.engines.interface import Hit

#: Weight of the cosine against the words, within a language and across languages.
DENSE_WEIGHT, DENSE_WEIGHT_ACROSS = 0.6, 0.9
#: Added to the cosine across languages: half of how much lower it lies, so that the own language wins near ties.
#: Between Arabic and a language in Latin script it lies 0.06 lower, between English and French 0.035.
OFFSET_ACROSS_SCRIPTS, OFFSET_ACROSS = 0.03, 0.015
#: Cosines of multilingual-e5-small between ``FLOOR`` and ``FLOOR + RANGE`` tell unrelated from same.
DENSE_FLOOR, DENSE_RANGE = 0.70, 0.16


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one language, best first in each list."""

    dense: Sequence[Hit]
    lexical: Sequence[Hit]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage with its fused score and what that was made of.

    Attributes:
        hit: the passage.
        score: for ranking; about 1 for an excellent match, and comparable between searches only roughly.
        dense: the cosine with the question; for one that only words found, the lowest cosine seen, which bounds it.
        lexical: the BM25 score; 0 when no word matched well enough to be listed.
    """

    hit: Hit
    score: float
    dense: float
    lexical: float


def fuse(language: str, found: Mapping[str, Found], limit: int) -> list[Ranked]:
    """Rank what was found for a question in ``language``, best first, at most ``limit``."""
    best_own = _best(found[language].lexical) if language in found else 0.0
    best_any = max((_best(of_language.lexical) for of_language in found.values()), default=0.0)
    ranked = []
    for code, of_language in found.items():
        own = code == language
        weight = DENSE_WEIGHT if own else DENSE_WEIGHT_ACROSS
        offset = _offset(language, code)
        scale = best_own if own else best_any
        for hit, dense, lexical in _together(of_language):
            similarity = (dense + offset - DENSE_FLOOR) / DENSE_RANGE
            words = lexical / scale if scale > 0 else 0.0
            ranked.append(Ranked(hit, weight * similarity + (1 - weight) * words, dense, lexical))
    ranked.sort(key=lambda one: (-one.score, one.hit.document, one.hit.start))
    return ranked[:limit]


def _offset(language: str, other: str) -> float:
    if language == other:
        return 0.0
    return OFFSET_ACROSS_SCRIPTS if "ar" in {language, other} else OFFSET_ACROSS


def _best(hits: Sequence[Hit]) -> float:
    return max((hit.score for hit in hits), default=0.0)


def _together(found: Found) -> list[tuple[Hit, float, float]]:
    """Each passage once, with its cosine and its BM25 score."""
    lowest = min((hit.score for hit in found.dense), default=0.0)
    words = {(hit.document, hit.start, hit.end): hit for hit in found.lexical}
    together = []
    for hit in found.dense:
        match = words.pop((hit.document, hit.start, hit.end), None)
        together.append((hit, hit.score, match.score if match else 0.0))
    return together + [(hit, lowest, hit.score) for hit in words.values()]
