"""Text as full-text search sees it: one spelling for what readers take to be the same word.

What is indexed and what is asked both pass through :func:`terms`, so a query finds a passage whatever diacritics, alef
forms, digits, accents or case either was written in. It never touches the text that is shown or cited. There is no
stemming here: the index works on character n-grams, which measured better in Arabic than light stemming
(docs/decisions/0006-knowledge.md).
"""

from __future__ import annotations

import re
import unicodedata

#: Characters that steer display and carry no meaning: bidi controls, zero-width ones, byte order mark, soft hyphen.
_INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
#: What compatibility decomposition leaves apart: wasla alef, alef maqsura, ta marbuta, Persian kaf and ya, tatweel.
_ARABIC_FOLDS = str.maketrans(
    {"\u0671": "ا", "\u0649": "ي", "\u0629": "ه", "\u06a9": "ك", "\u06cc": "ي", "\u0640": None}
)
#: Arabic vowel signs and Quranic marks; tatweel, which only stretches a word.
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]")
_WORD = re.compile(r"[^\W_]+")


def strip_invisible(text: str) -> str:
    """``text`` without characters that only steer display, such as the bidi marks around Arabic in PDFs."""
    return _INVISIBLE.sub("", text)


def plain_letters(text: str) -> str:
    """``text`` as it is written every day: no vowel signs, no tatweel, no marks that only steer display.

    This is what is embedded. Few texts that an embedder learnt from are vocalised, so vowel signs cost it recall.
    """
    return _ARABIC_MARKS.sub("", strip_invisible(text))


def digits_to_ascii(text: str) -> str:
    """``text`` with every decimal digit, Arabic-Indic ones among them, written 0 to 9."""
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def fold(text: str) -> str:
    """``text`` in one spelling: no case, no accents or vowel signs, plain alef, ya, ha and waw, digits 0 to 9.

    Decomposing (NFKD) splits أ إ آ ؤ ئ é into a letter and a mark; dropping the marks folds them all alike.
    Folding twice changes nothing.
    """
    lowered = unicodedata.normalize("NFKC", strip_invisible(text)).casefold()
    letters = (c for c in unicodedata.normalize("NFKD", lowered) if not unicodedata.combining(c))
    return digits_to_ascii("".join(letters).translate(_ARABIC_FOLDS))


def terms(text: str) -> str:
    """The folded words of ``text``, one space between them; punctuation is gone."""
    return " ".join(_WORD.findall(fold(text)))
