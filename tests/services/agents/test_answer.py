"""The pure parts of an answer: verdicts, streams, sentences. Whole answers are in tests/scenarios/test_ask.py."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.errors import Invalid, Transient
from falaj.region.resource import Key
from falaj.services.agents.answer import _events, _refused_by_model, _sentences, _verdict


async def arriving(pieces: Sequence[Any]) -> AsyncIterator[Any]:
    for piece in pieces:
        yield piece


def choice(**probabilities: float) -> dict[str, Any]:
    tokens = [{"token": token, "logprob": math.log(p)} for token, p in probabilities.items()]
    return {"message": {"content": "?"}, "logprobs": {"content": [{"top_logprobs": tokens}]}}


def test_the_verdict_weighs_every_spelling_of_yes_against_every_spelling_of_no() -> None:
    tokens = {"Yes": 0.3, " yes": 0.3, "No": 0.1, "لا": 0.1, "Maybe": 0.2}
    assert _verdict(choice(**tokens)) == pytest.approx(0.75)


def test_a_first_token_that_is_neither_yes_nor_no_is_no_verdict_for_it() -> None:
    assert _verdict(choice(The=0.9, It=0.1)) == 0.0


@pytest.mark.parametrize(("content", "expected"), [("Yes, it does.", 1.0), ("No.", 0.0), ("Perhaps", 0.0), ("", 0.0)])
def test_a_server_without_probabilities_is_read_by_its_word(content: str, expected: float) -> None:
    assert _verdict({"message": {"content": content}, "logprobs": None}) == expected


@given(st.lists(st.integers(1, 60), max_size=8))
async def test_events_survive_any_cut_of_the_stream(cuts: list[int]) -> None:
    stream = 'data: {"n": 1}\n\n: ping\n\ndata: {"n": 2, "text": "منفذ"}\r\n\r\ndata: [DONE]\n\n'.encode()
    pieces, start = [], 0
    for length in cuts:
        pieces.append(stream[start : start + length])
        start += length
    events = [event async for event in _events(arriving([*pieces, stream[start:]]))]
    assert [event["n"] for event in events] == [1, 2]


async def test_an_error_in_mid_stream_is_raised_and_not_taken_for_text() -> None:
    stream = [b'data: {"n": 1}\n\n', b'data: {"error": {"message": "out of memory"}}\n\n']
    with pytest.raises(Transient, match="out of memory"):
        _ = [event async for event in _events(arriving(stream))]


async def test_sentences_are_passed_on_whole_and_nothing_is_lost() -> None:
    text = "Port 7440.5 is it. Is S3 apart? نعم. المنفذ ٧٤٤١؟ end"
    for size in (1, 2, 7, 100):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        got = [sentence async for sentence in _sentences(arriving(pieces))]
        assert "".join(got) == text
        assert [s.strip() for s in got] == ["Port 7440.5 is it.", "Is S3 apart?", "نعم.", "المنفذ ٧٤٤١؟", "end"]


def test_what_a_model_refuses_is_the_callers_to_mend_and_what_fails_is_not() -> None:
    endpoint = Key("Endpoint", "system", "qwen")
    refused = _refused_by_model(400, b'{"error": {"message": "context exceeded"}}', endpoint)
    assert isinstance(refused, Invalid)
    assert "context exceeded" in str(refused)
    failed = _refused_by_model(500, b"<html>oops", endpoint)
    assert isinstance(failed, Transient)
    assert "oops" in str(failed)
