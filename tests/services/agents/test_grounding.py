"""Quotes and figures: what ties an answer to its passage."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.services.agents.grounding import QUOTE_CHARACTERS_MAX, invented_figures, quote, sentences

PASSAGE = (
    "## Ports\n"
    "Every wire but S3 listens on port 7440. S3 listens on port 7441.\n\n"
    "A port held by another process is refused with that process's name."
)
ARABIC = "تستمع المنطقة على المنفذ ٧٤٤٠. أمّا S3 فيستمع على المنفذ 7441. هل المنفذ مشغول؟ يُذكر اسم شاغله."


def test_sentences_are_cut_at_their_ends_and_nowhere_else() -> None:
    cut = [PASSAGE[span.start : span.end] for span in sentences(PASSAGE)]
    assert cut == [
        "## Ports",
        "Every wire but S3 listens on port 7440.",
        "S3 listens on port 7441.",
        "A port held by another process is refused with that process's name.",
    ]
    assert len(sentences(ARABIC)) == 4
    assert len(sentences("Version 1.5 of a.b is out")) == 1


@given(st.text(alphabet="ab .!?؟\n#7", max_size=120))
def test_sentences_lose_nothing_but_white_space(text: str) -> None:
    spans = sentences(text)
    assert all(left.end <= right.start for left, right in pairwise(spans))
    kept = "".join(text[span.start : span.end] for span in spans)
    assert "".join(kept.split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("passage", "answer", "question", "expected"),
    [
        (PASSAGE, "It is port 7441.", "Which port does S3 use?", "S3 listens on port 7441."),
        (PASSAGE, "Every wire but S3 uses 7440.", "Where is REST?", "Every wire but S3 listens on port 7440."),
        (PASSAGE, "", "Who holds the port: another process?", "A port held by another process is refused"),
        (ARABIC, "المنفذ ٧٤٤١", "على أي منفذ يستمع S3؟", "أمّا S3 فيستمع على المنفذ 7441."),
    ],
)
def test_the_quote_is_the_sentence_that_supports_the_answer(
    passage: str, answer: str, question: str, expected: str
) -> None:
    span = quote(passage, answer, question)
    assert passage[span.start : span.end].startswith(expected)


@given(st.text(max_size=2000), st.text(max_size=50), st.text(max_size=50))
def test_a_quote_lies_inside_its_passage_and_is_bounded(passage: str, answer: str, question: str) -> None:
    span = quote(passage, answer, question)
    assert 0 <= span.start <= span.end <= len(passage)
    assert span.end - span.start <= QUOTE_CHARACTERS_MAX


def test_a_figure_is_invented_when_neither_passage_nor_question_has_it() -> None:
    assert invented_figures("It costs 30 dollars.", PASSAGE, "What does it cost?") == {"30"}
    assert invented_figures("Port 7440, not 80.", PASSAGE, "Is it 80?") == set()


def test_digits_of_any_script_are_the_same_figure() -> None:
    assert invented_figures("المنفذ 7440", ARABIC, "") == set()
    assert invented_figures("المنفذ ۷۴۴۱", ARABIC, "") == set()
    assert invented_figures("المنفذ ٩٠٠٠", ARABIC, "") == {"9000"}
