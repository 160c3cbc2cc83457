"""The OpenAI wire as OpenAI's own client sees it, against a running region with the 0.5B model."""

import base64
import json
import math
import struct

import openai
import pytest
from openai import OpenAI

from tests.running import RunningRegion

pytestmark = pytest.mark.model

QUESTION = [{"role": "user", "content": "Write the numbers from one to ten as words."}]


@pytest.fixture(scope="module")
def project(serving: RunningRegion) -> str:
    """The key of a project that has nothing of its own: what it uses is the region's."""
    return serving.project("openai-wire")


@pytest.fixture(scope="module")
def client(serving: RunningRegion, project: str) -> OpenAI:
    return OpenAI(base_url=f"{serving.url}/v1", api_key=project, max_retries=0, timeout=120)


def test_models_are_listed_and_read(client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"chat", "e5"} <= set(models)
    assert models["chat"].owned_by == "system"
    assert client.models.retrieve("chat").created > 0


def test_a_chat_is_answered_under_the_name_that_was_asked_for(client: OpenAI) -> None:
    for name in ("chat", "system/chat"):
        answer = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=5, temperature=0)
        assert answer.model == name
        assert answer.object == "chat.completion"
        assert (answer.choices[0].message.content or "").strip()
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage
        assert answer.usage.completion_tokens == 5
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_a_stream_brings_the_same_text_piece_by_piece(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="chat", messages=QUESTION, max_tokens=6, temperature=0, seed=1)
    stream = client.chat.completions.create(
        model="chat", messages=QUESTION, max_tokens=6, temperature=0, seed=1, stream=True
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert {chunk.model for chunk in chunks} == {"chat"}
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 3
    assert chunks[-1].choices[0].finish_reason == "length"
    assert not any(chunk.usage for chunk in chunks)


def test_a_stream_tells_its_usage_when_asked(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chat", messages=QUESTION, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert last.choices == []
    assert last.usage
    assert last.usage.completion_tokens == 5


def test_parts_system_messages_and_stops_are_served(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chat",
        messages=[
            {"role": "system", "content": "You answer with one word."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "The capital"}, {"type": "text", "text": "of France?"}],
            },
        ],
        max_tokens=16,
        temperature=0,
        stop=["\n"],
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_a_schema_is_followed(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    answer = client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "The capital of France, as JSON."}],
        max_tokens=40,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
    )
    assert set(json.loads(answer.choices[0].message.content or "")) == {"city"}


def test_embeddings_come_as_numbers_and_as_base64(client: OpenAI) -> None:
    # The client asks for base64 by itself and decodes it; asking for floats takes the other way.
    encoded = client.embeddings.create(model="e5", input="ما هي المنطقة؟").data[0].embedding
    plain = client.embeddings.create(model="e5", input=["ما هي المنطقة؟"], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(encoded, abs=1e-6)
    assert len(encoded) == 384
    assert math.fsum(value * value for value in encoded) == pytest.approx(1, abs=1e-3)
    assert plain.usage.prompt_tokens > 0
    raw = client.embeddings.with_raw_response.create(model="e5", input="a", encoding_format="base64").http_response
    packed = base64.b64decode(raw.json()["data"][0]["embedding"])
    assert len(struct.unpack("<384f", packed)) == 384


def test_many_texts_are_embedded_in_order(client: OpenAI) -> None:
    texts = ["water", "eau", "ماء", "a contract about insurance"]
    together = client.embeddings.create(model="e5", input=texts).data
    assert [item.index for item in together] == [0, 1, 2, 3]
    alone = client.embeddings.create(model="e5", input=texts[2]).data[0].embedding
    assert together[2].embedding == pytest.approx(alone, abs=1e-3)


def test_the_input_type_changes_the_vector_and_query_is_the_default(client: OpenAI) -> None:
    def vector(**more: object) -> list[float]:
        return client.embeddings.create(model="e5", input="water", extra_body=more).data[0].embedding

    assert vector() == pytest.approx(vector(input_type="query"), abs=1e-6)
    assert vector() != pytest.approx(vector(input_type="passage"), abs=1e-3)


def test_dimensions_are_the_model_s_own(client: OpenAI) -> None:
    assert len(client.embeddings.create(model="e5", input="a", dimensions=384).data[0].embedding) == 384
    with pytest.raises(openai.BadRequestError, match="384 dimensions"):
        client.embeddings.create(model="e5", input="a", dimensions=100)


# --- errors become the client's own classes ---------------------------------------------------------------------------


def test_a_wrong_key_is_an_authentication_error(serving: RunningRegion) -> None:
    stranger = OpenAI(base_url=f"{serving.url}/v1", api_key="flj_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="chatt", messages=QUESTION)
    assert refused.value.code == "model_not_found"
    assert "chat" in refused.value.message


@pytest.mark.parametrize(
    ("more", "param"),
    [({"temperature": 9}, "temperature"), ({"n": 3}, "n"), ({"extra_body": {"min_p": 0.1}}, "min_p")],
)
def test_wrong_and_unsupported_parameters_are_bad_requests(client: OpenAI, more: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="chat", messages=QUESTION, **more)
    assert refused.value.param == param
    assert refused.value.request_id


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_past_the_context_is_a_bad_request_with_openai_s_code(client: OpenAI, stream: bool) -> None:
    long = [{"role": "user", "content": "water " * 4000}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="chat", messages=long, stream=stream)
    assert refused.value.code == "context_length_exceeded"
    assert "2048" in refused.value.message


def test_a_prompt_of_a_megabyte_is_refused_clearly_and_soon(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "ماء " * 150_000}], timeout=60
        )
    assert refused.value.code == "context_length_exceeded"


def test_a_body_past_the_limit_is_413(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "x" * (3 << 20)}])
    assert refused.value.status_code == 413


def test_an_embeddings_endpoint_does_not_chat(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="e5", messages=QUESTION)
    assert refused.value.param == "model"
