"""Folding: what readers take to be the same word has one spelling, and folding twice changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.services.knowledge.normalise import digits_to_ascii, fold, plain_letters, strip_invisible, terms

ARABIC = st.text(alphabet=st.characters(min_codepoint=0x0600, max_codepoint=0x06FF), max_size=60)
DIACRITICS = "\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670"


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("أحمد إحسان آمال ٱلكتاب", "احمد احسان امال الكتاب"),
        ("مَدْرَسَةٌ", "مدرسه"),
        ("مستشفى", "مستشفي"),
        ("فـــلـــج", "فلج"),
        ("مؤسسة رئيس", "موسسه رييس"),
        ("کتاب فارسی", "كتاب فارسي"),
        ("٢٠٢٦ ۱۲ 7", "2026 12 7"),
        ("Éléphant ŒUVRE naïve", "elephant œuvre naive"),
        ("ﻣﻨﻄﻘﺔ", "منطقه"),
        ("\u200fمنطقة\u200e", "منطقه"),
        ("STRASSE straße", "strasse strasse"),
    ],
)
def test_spellings_fold(written: str, folded: str) -> None:
    assert fold(written) == folded


def test_plain_letters_are_what_is_written_every_day() -> None:
    assert plain_letters("كَمْ تَسْتَمِرُّ الدَّوْرَةُ؟") == "كم تستمر الدورة؟"
    assert plain_letters("فـــلـــج \u200fÉté 1\ufeff") == "فلج Été 1"


def test_terms_are_words_without_punctuation() -> None:
    assert terms("«المنطقة»، والموقع؛ key_id: 42!") == "المنطقه والموقع key id 42"
    assert terms(" … — !") == ""


@given(st.text(max_size=200))
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert terms(terms(text)) == terms(text)


@given(ARABIC)
def test_diacritics_and_tatweel_never_matter(text: str) -> None:
    decorated = "".join(letter + DIACRITICS[index % len(DIACRITICS)] + "\u0640" for index, letter in enumerate(text))
    assert terms(decorated) == terms(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_numbers_read_the_same_in_both_digits(number: int) -> None:
    arabic = str(number).translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩"))
    assert digits_to_ascii(arabic) == str(number)
    assert fold(f"الرقم {arabic}") == fold(f"الرقم {number}")


@given(st.text(max_size=100))
def test_invisible_characters_are_dropped_and_nothing_else(text: str) -> None:
    marked = "".join(f"\u200f{character}\u202c" for character in text)
    assert strip_invisible(marked) == strip_invisible(text)
    assert strip_invisible("abc نص 12") == "abc نص 12"
