"""The OpenAI wire before any replica runs: what is refused, by which name, and what a caller may see."""

import asyncio

import pytest

from tests.protocols.conftest import Wires, manifest
from tests.protocols.serving import exchange

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def declared(wires: Wires) -> Wires:
    """Endpoints in two projects and in `system`, an agent in two projects; nothing runs."""
    answer = await wires.apply(
        manifest("Model", "small", catalogue="qwen2.5-coder-0.5b-instruct"),
        manifest("Model", "e5", catalogue="multilingual-e5-small"),
        manifest("Endpoint", "e5", "system", model="e5"),
        *(
            resource
            for project in ("claims", "other")
            for resource in (
                manifest("Endpoint", f"{project}-chat", project, model="small"),
                manifest("Bucket", "b", project),
                manifest("KnowledgeBase", "k", project, sources=[{"bucket": "b"}]),
                manifest("Agent", "guide", project, endpoint=f"{project}-chat", knowledge=["k"]),
            )
        ),
    )
    assert answer.status == 200, answer.body
    return wires


async def names(wires: Wires, key: str | None = None) -> dict[str, str]:
    data = (await wires.call("GET", "/v1/models", key=key)).json()["data"]
    assert all(entry["object"] == "model" and entry["created"] > 0 for entry in data)
    return {entry["id"]: entry["owned_by"] for entry in data}


async def test_a_project_s_key_sees_its_own_models_agents_and_the_region_s(declared: Wires) -> None:
    assert await names(declared, declared.claims_key) == {
        "claims-chat": "claims",
        "e5": "system",
        "agent/guide": "claims",
    }
    assert {"claims/claims-chat", "other/other-chat", "e5"} <= set(await names(declared))


async def test_one_model_is_read_by_name(declared: Wires) -> None:
    answer = await declared.call("GET", "/v1/models/agent/guide", key=declared.claims_key)
    assert answer.json()["owned_by"] == "claims"
    answer = await declared.call("GET", "/v1/models/other-chat", key=declared.claims_key)
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_an_unknown_model_is_404_and_offers_names_that_the_caller_may_use(declared: Wires) -> None:
    body = {"model": "claims-chta", "messages": MESSAGES}
    answer = await declared.call("POST", CHAT, body, key=declared.claims_key)
    fields = answer.json()["error"]
    assert answer.status == 404
    assert (fields["code"], fields["param"]) == ("model_not_found", "model")
    assert "claims-chat" in fields["message"]
    assert "other-chat" not in fields["message"]
    for model in ("other/other-chat", "agent/nobody"):
        answer = await declared.call("POST", CHAT, {"model": model, "messages": MESSAGES}, key=declared.claims_key)
        assert answer.json()["error"]["code"] == "model_not_found"
    answer = await declared.call("POST", "/v1/embeddings", {"model": "e6", "input": "a"}, key=declared.claims_key)
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_an_endpoint_that_is_not_ready_is_503_with_a_time_to_come_back(declared: Wires) -> None:
    answer = await declared.call("POST", CHAT, {"model": "claims-chat", "messages": MESSAGES}, key=declared.claims_key)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "service_unavailable"


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b'{"model": "x",\n "messages": ]}', "body", "line 2, column 14"),
        (b'{"model": "\xff"}', "body", "UTF-8"),
        (b"[]", "body", "not a JSON object"),
        (b"", "body", "not JSON"),
        ({"messages": MESSAGES}, "model", "missing"),
        ({"model": "x"}, "messages", "missing"),
        ({"model": "x", "messages": MESSAGES, "temprature": 1}, "temprature", "temperature"),
        ({"model": "x", "messages": MESSAGES, "max_tokens": "5"}, "max_tokens", "whole number"),
        ({"model": "x", "messages": MESSAGES, "stream_options": {}}, "stream_options", None),
        ({"model": "x", "messages": MESSAGES, "stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"model": "agent/guide", "messages": MESSAGES, "tools": []}, "tools", "not supported"),
    ],
)
async def test_wrong_requests_are_400_with_the_parameter(
    declared: Wires, body: object, param: str, says: str | None
) -> None:
    answer = await declared.call("POST", CHAT, body, key=declared.claims_key)
    if says is None:
        assert answer.status in {400, 404}
        return
    assert answer.status == 400
    assert answer.json()["error"]["param"] == param
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_body_past_the_limit_is_413_with_and_without_a_length(declared: Wires) -> None:
    big = {"model": "claims-chat", "messages": [{"role": "user", "content": "x" * 70_000}]}
    answer = await declared.call("POST", CHAT, big, key=declared.claims_key)
    assert answer.status == 413
    assert "65,536" in answer.json()["error"]["message"]
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {declared.claims_key}\r\n"
        "transfer-encoding: chunked\r\n\r\n"
    ).encode()
    chunks = (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 5
    assert (await exchange(declared.port, head + chunks)).status == 413


async def test_embeddings_are_checked(declared: Wires) -> None:
    for body, param in (
        ({"model": "e5", "input": [1, 2]}, "input"),
        ({"model": "e5", "input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"model": "e5", "input": "a", "input_type": "title"}, "input_type"),
        ({"model": "e5"}, "input"),
    ):
        answer = await declared.call("POST", "/v1/embeddings", body)
        assert (answer.status, answer.json()["error"]["param"]) == (400, param)


async def test_an_agent_s_project_is_the_key_s_the_header_s_or_the_only_one(declared: Wires) -> None:
    body = {"model": "agent/guide", "messages": MESSAGES}
    several = await declared.call("POST", CHAT, body)
    assert several.status == 400
    assert "Falaj-Project" in several.json()["error"]["message"]
    # From here on the agent is found, and what it needs is not there: 503.
    assert (await declared.call("POST", CHAT, body, headers={"falaj-project": "other"})).status == 503
    assert (await declared.call("POST", CHAT, body, key=declared.claims_key)).status == 503
    foreign = await declared.call("POST", CHAT, body, key=declared.claims_key, headers={"falaj-project": "other"})
    assert foreign.json()["error"]["code"] == "model_not_found"


async def test_methods_and_paths(declared: Wires) -> None:
    assert (await declared.call("GET", CHAT)).status == 405
    assert (await declared.call("POST", "/v1/models", {})).status == 405
    assert (await declared.call("POST", "/v1/completions", {})).status == 404


async def test_a_client_that_leaves_before_its_body_is_sent_is_no_error(
    declared: Wires, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", declared.port)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {declared.claims_key}\r\ncontent-length: 100\r\n\r\n"
    )
    writer.write(head.encode() + b'{"model"')
    await asyncio.sleep(0.1)
    writer.close()
    await asyncio.sleep(0.2)
    assert f'route="{CHAT}",status="499"' in (await declared.call("GET", "/metrics")).body.decode()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
