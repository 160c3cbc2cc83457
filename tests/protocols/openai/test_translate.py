"""Parameters are checked by name; streams are cut and renamed whatever their pieces; errors have OpenAI's shape."""

import base64
import struct
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.errors import Conflict, Denied, Invalid, LimitExceeded, NotFound, Terminal, Transient
from falaj.protocols.http import Unauthenticated
from falaj.protocols.openai import translate, wire
from falaj.services.agents.answer import Answer, Citation, Usage

MESSAGES = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": MESSAGES, **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0, "top_p": 1, "max_tokens": 5, "n": 1, "stream": True, "stop": ["a", "b"], "seed": -1},
        {"stop": "x", "stream_options": {"include_usage": True}, "response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto", "temperature": None},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        {"messages": [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        {"store": False, "user": "u", "logprobs": True, "top_logprobs": 3},
    ],
)
def test_supported_parameters_pass(fields: dict[str, Any]) -> None:
    translate.check(chat(**fields), wire.CHAT, ("model", "messages"))


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"temperature": "hot"}, "temperature", "a number from 0 to 2"),
        ({"temperature": True}, "temperature", "a number"),
        ({"temperature": 2.1}, "temperature", "2"),
        ({"max_tokens": 1.5}, "max_tokens", "a whole number"),
        ({"max_tokens": 0}, "max_tokens", "from 1"),
        ({"n": 2}, "n", "one of 1"),
        ({"n": True}, "n", "one of 1"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": {"other": True}}, "stream_options", "include_usage"),
        ({"audio": {}}, "audio", "not supported"),
        ({"max_token": 5}, "max_token", "max_tokens"),
        ({"functions": []}, "functions", "not supported"),
        ({"messages": []}, "messages", "1 to"),
        ({"messages": "hello"}, "messages", "1 to"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages", "number 0 has no 'role'"),
        ({"messages": [*MESSAGES, {"role": "user"}]}, "messages", "number 1 has no 'content'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "'image_url'"),
        ({"messages": None}, "messages", "missing"),
        ({"model": None}, "model", "missing"),
        ({"model": 5}, "model", "a string"),
        ({"tools": [{"type": "web"}]}, "tools", "type 'function'"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
        ({"stop": ["a"] * 9}, "stop", "1 to 8"),
    ],
)
def test_wrong_and_unsupported_parameters_are_refused_by_name(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        translate.check(chat(**fields), wire.CHAT, ("model", "messages"))
    assert refused.value.where == param
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1, 2, 3], "token arrays are not served"),
        ([[1], [2]], "token arrays are not served"),
        ("", "none of them empty"),
        ([], "1 to"),
        (["a", ""], "none of them empty"),
        (["a"] * 513, "1 to 512"),
        ({"a": 1}, "a string"),
    ],
)
def test_embedding_inputs_that_mean_nothing_are_refused(value: object, says: str) -> None:
    with pytest.raises(Invalid, match="input") as refused:
        translate.check({"model": "e5", "input": value}, wire.EMBEDDINGS, ("model", "input"))
    assert says in str(refused.value)


def test_an_agent_takes_only_what_means_something_to_it() -> None:
    translate.check(chat(stream=True), wire.AGENT, ("model", "messages"))
    with pytest.raises(Invalid, match="temperature"):
        translate.check(chat(temperature=1), wire.AGENT, ("model", "messages"))


def test_the_question_is_the_last_message_of_the_user() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "ما هي"}, {"type": "text", "text": "المنطقة؟"}]}
    assert translate.question([*MESSAGES, {"role": "assistant", "content": "hi"}, parts]) == "ما هي\nالمنطقة؟"
    for messages in ([{"role": "system", "content": "a"}], [{"role": "user", "content": "  "}]):
        with pytest.raises(Invalid, match="question"):
            translate.question(messages)


# --- streams ---------------------------------------------------------------------------------------------------------

STREAM = (
    b'data: {"choices":[{"delta":{"content":"\xd8\xb3\\n\\nx"}}],"model":"alias"}\n\n'
    b": keep-alive\n\n"
    b'data: {"choices":[],"model":"alias","usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_is_cut_into_the_same_events_wherever_its_pieces_end(cuts: list[int]) -> None:
    events = translate.Events("chat")
    borders = [0, *sorted(cuts), len(STREAM)]
    out = [event for start, end in pairwise(borders) for event in events.feed(STREAM[start:end])]
    assert [orjson.loads(event[6:])["model"] for event in out[:-1]] == ["chat", "chat"]
    assert out[-1] == translate.DONE
    assert events.done
    assert translate.usage(events.usage) == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_a_stream_without_usage_is_counted_by_its_timings() -> None:
    events = translate.Events("chat")
    timings = b'{"cache_n":34,"prompt_n":1,"predicted_n":2}'
    list(events.feed(b'data: {"choices":[],"timings":' + timings + b"}\n\n"))
    assert translate.usage(events.usage) == {"prompt_tokens": 35, "completion_tokens": 2, "total_tokens": 37}


@pytest.mark.parametrize(
    "event",
    [b'data: {"error":{"message":"out of memory","code":500}}\n\n', b'error: {"message":"gone"}\n\n', b"data: {\n\n"],
)
def test_an_error_inside_of_a_stream_is_raised(event: bytes) -> None:
    with pytest.raises(Transient, match="replica"):
        list(translate.Events("chat").feed(event))


def test_an_event_that_never_ends_is_given_up() -> None:
    events = translate.Events("chat")
    for _ in range(4):
        assert list(events.feed(b"x" * (1 << 20))) == []
    with pytest.raises(Transient, match="without an end"):
        list(events.feed(b"x"))


def test_a_whole_answer_has_the_name_that_was_asked_for() -> None:
    content, usage = translate.completion(b'{"choices":[],"model":"alias","usage":{"prompt_tokens":1}}', "system/chat")
    assert orjson.loads(content)["model"] == "system/chat"
    assert usage == {"prompt_tokens": 1}
    for wrong in (b"<html>", b"[]", b'{"a":1}'):
        with pytest.raises(Transient, match="replica"):
            translate.completion(wrong, "chat")


# --- embeddings ------------------------------------------------------------------------------------------------------


def test_vectors_are_numbers_or_base64_of_little_endian_floats() -> None:
    vectors = [[0.5, -1.0], [0.25, 2.0]]
    plain = translate.embeddings(vectors, "e5", 7, encoding_format="float")
    assert [item["embedding"] for item in plain["data"]] == vectors
    assert [item["index"] for item in plain["data"]] == [0, 1]
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    packed = translate.embeddings(vectors, "e5", 7, encoding_format="base64")["data"][1]["embedding"]
    assert list(struct.unpack("<2f", base64.b64decode(packed))) == [0.25, 2.0]


# --- agents ----------------------------------------------------------------------------------------------------------


def test_an_answer_carries_its_citations_beside_openai_s_fields() -> None:
    citation = Citation("en/region.md", "Region", "A region is…", 3, 15)
    answer = Answer("A place.", [citation], False, "chat", "local-a", 1.5, Usage(10, 4))
    whole = translate.answer_completion(answer, "agent/guide", "chatcmpl-1", 5)
    assert whole["choices"][0]["message"]["content"] == "A place."
    assert whole["model"] == "agent/guide"
    assert whole["usage"]["total_tokens"] == 14
    assert whole["falaj"]["citations"][0]["document"] == "en/region.md"
    assert {"refused", "site", "seconds"} < set(whole["falaj"])
    event = orjson.loads(translate.chunk("agent/guide", "chatcmpl-1", 5, {}, "stop", falaj=whole["falaj"])[6:])
    assert event["falaj"] == whole["falaj"]
    assert event["choices"][0]["finish_reason"] == "stop"
    assert orjson.loads(translate.chunk("a", "b", 5, None, usage={})[6:])["choices"] == []


def test_an_agent_is_told_from_an_endpoint_by_its_prefix() -> None:
    assert translate.agent_name("agent/guide") == "guide"
    assert translate.agent_name("system/e5") is None


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (Invalid("a", where="n"), "invalid_request_error", "invalid_value"),
        (Unauthenticated("a"), "authentication_error", "invalid_api_key"),
        (Denied("a"), "permission_error", "permission_denied"),
        (NotFound("a"), "invalid_request_error", "not_found"),
        (translate.ModelNotFound("a"), "invalid_request_error", "model_not_found"),
        (translate.refused(Invalid("a", where="messages")), "invalid_request_error", "context_length_exceeded"),
        (translate.refused(Invalid("a", where="tools")), "invalid_request_error", "invalid_value"),
        (Conflict("a"), "invalid_request_error", "conflict"),
        (LimitExceeded("a"), "invalid_request_error", "limit_exceeded"),
        (Transient("a"), "service_unavailable_error", "service_unavailable"),
        (Terminal("a"), "server_error", "server_error"),
    ],
)
def test_errors_have_openai_s_shape(error: Any, kind: str, code: str) -> None:
    fields = translate.failure(error, "r-1")["error"]
    assert (fields["type"], fields["code"]) == (kind, code)
    assert fields["request_id"] == "r-1"
    assert set(fields) == {"message", "type", "param", "code", "request_id"}


def test_only_what_is_a_parameter_is_called_one() -> None:
    assert translate.failure(Transient("away", where="Endpoint/claims/chat"))["error"]["param"] is None


def test_an_error_says_what_to_do_and_where() -> None:
    fields = translate.failure(Invalid("wrong", where="temperature", hint="lower it"))["error"]
    assert fields["message"] == "wrong (lower it)"
    assert fields["param"] == "temperature"


def test_a_model_that_is_not_there_offers_the_nearest_names() -> None:
    error = translate.model_not_found("qwen-chta", ["qwen-chat", "system/e5"])
    assert "qwen-chat" in error.hint
    assert translate.failure(error)["error"]["param"] == "model"


def test_an_error_in_the_middle_of_a_stream_is_an_event() -> None:
    event = translate.error_event(Transient("broke off"), "r-1")
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert orjson.loads(event[6:])["error"]["message"] == "broke off"
