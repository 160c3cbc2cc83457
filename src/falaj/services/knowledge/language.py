"""Which of the languages that a knowledge base speaks a text is written in, by script and by its commonest words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from falaj.services.knowledge.normalise import fold

#: The languages that can be told apart. A text in any other is filed under the nearest of these.
LANGUAGES = ("ar", "en", "fr")

_ARABIC_LETTER = re.compile("[\u0620-\u064a\u066e-\u06d3\u06fa-\u06fc\ufb50-\ufdfb\ufe70-\ufefc]")
_LATIN_LETTER = re.compile("[A-Za-z\u00c0-\u024f]")
_WORD = re.compile(r"[^\W\d_]+")
#: Frequent words that the other language does not share; folded, so without accents.
_ENGLISH = """the of and to is it that for was with are be this have from by not but what which who how when where why
can does do if will there their they has its an at or you we many much did were been"""
_FRENCH = """le la les des du et est une un dans pour que qui par sur pas avec au aux ce cette ces sont il elle ne se ou
plus quel quelle quels quelles comment combien quand quoi peut fait d l qu n s c j je nous vous etre ont a en son sa ses
leur"""
_COMMON_WORDS = {"en": frozenset(_ENGLISH.split()), "fr": frozenset(_FRENCH.split())}
#: How much of a long text is looked at; language does not change with length.
_SAMPLE_CHARACTERS = 4000


def detect(text: str, among: Sequence[str] = LANGUAGES, *, default: str | None = None) -> str:
    """The language of ``text`` out of ``among``; ``default`` when the text does not tell.

    A text counts as Arabic when at least 40 % of its letters are: product names and code in Latin script stand in
    Arabic prose, seldom the other way round.
    """
    sample = text[:_SAMPLE_CHARACTERS]
    fallback = default if default is not None and default in among else among[0]
    arabic, latin = len(_ARABIC_LETTER.findall(sample)), len(_LATIN_LETTER.findall(sample))
    if "ar" in among and arabic and arabic >= 0.4 * (arabic + latin):
        return "ar"
    if not latin:
        return fallback
    words = _WORD.findall(fold(sample))
    counts = {code: sum(word in common for word in words) for code, common in _COMMON_WORDS.items() if code in among}
    if not counts:
        return fallback
    best = max(counts, key=lambda code: counts[code])
    undecided = list(counts.values()).count(counts[best]) > 1  # most often none at all: a name, a heading, code
    return default if undecided and default is not None and default in among else best


def from_path(path: str, among: Sequence[str] = LANGUAGES) -> str | None:
    """The language that a folder of the path names (``guide/ar/site.md``), or None."""
    folders = PurePosixPath(path).parts[:-1]
    return next((part.lower() for part in reversed(folders) if part.lower() in among), None)
