"""Routing to real replicas: names, projects, load, and replicas that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from falaj.engines.openai_upstream import OpenAIUpstream
from falaj.errors import FalajError, Invalid, NotFound, Transient
from falaj.region.resource import Key, Metadata, Resource
from falaj.services.models import gateway as gateway_module
from falaj.services.models.gateway import Gateway
from falaj.services.models.kinds import ENDPOINT, EndpointSpec, EndpointStatus, Replica
from falaj.trust.identity import Principal
from tests.engines import workers
from tests.engines.workers import Worker
from tests.postgres import free_port

REGION = Principal(name="admin", key_id="", project=None)
CLAIMS = Principal(name="app", key_id="", project="claims")
E5_ARGUMENTS = ["--alias", "multilingual", "--threads", "1"]


class Declared:
    """Endpoints as a snapshot shows them."""

    def __init__(self) -> None:
        self._resources: dict[Key, Resource] = {}

    def add(self, project: str, name: str, *urls: str, task: str = "embeddings", **spec: Any) -> Key:
        status = EndpointStatus(site="local-a", task=task, model="multilingual")
        status.replicas = [Replica(name=f"{project}.{name}.{n}", url=url, ready=True) for n, url in enumerate(urls)]
        ready = "True" if urls else "False"
        status.set_condition(ready, "ReplicasReady" if urls else "Starting", f"{len(urls)} replicas are ready")
        declared = EndpointSpec.model_validate({"model": "multilingual", **spec})
        resource = Resource(ENDPOINT, Metadata(name=name, project=project), declared, status)
        self._resources[resource.key] = resource
        return resource.key

    def find(self, key: Key) -> Resource | None:
        return self._resources.get(key)

    def list(self, kind: str, project: str | None = None) -> list[Resource]:
        found = [r for k, r in self._resources.items() if k.kind == kind and project in {None, k.project}]
        return sorted(found, key=lambda resource: resource.key)


@pytest.fixture
def declared() -> Declared:
    return Declared()


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with workers.running(tmp_path_factory.mktemp("e5"), "e5", E5_ARGUMENTS) as worker:
        yield worker


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[Worker]:
    arguments = ["--model", str(small_model), "--alias", "multilingual", "--context-tokens", "256"]
    with workers.running(tmp_path_factory.mktemp("llama"), "llamacpp", [*arguments, "--concurrency", "1"]) as worker:
        yield worker


@pytest.fixture
async def gateway(declared: Declared, embedder: Worker) -> AsyncIterator[Gateway]:
    inference = OpenAIUpstream(embedder.key)
    yield Gateway(declared, inference)  # type: ignore[arg-type]
    await inference.close()


@pytest.fixture
async def chat_gateway(declared: Declared, llama: Worker) -> AsyncIterator[Gateway]:
    inference = OpenAIUpstream(llama.key)
    yield Gateway(declared, inference)  # type: ignore[arg-type]
    await inference.close()


async def test_a_name_means_the_own_project_first_then_system(gateway: Gateway, declared: Declared) -> None:
    declared.add("system", "shared")
    declared.add("system", "both")
    declared.add("claims", "both")
    declared.add("other", "secret")
    assert gateway.resolve(CLAIMS, "shared").project == "system"
    assert gateway.resolve(CLAIMS, "both").project == "claims"
    assert gateway.resolve(CLAIMS, "system/both").project == "system"
    assert gateway.resolve(CLAIMS, Key("Endpoint", "system", "both")).project == "system"
    assert [served.name for served in gateway.models(CLAIMS)] == ["both", "shared", "system/both"]
    assert [served.name for served in gateway.models(REGION)] == ["both", "claims/both", "other/secret", "shared"]
    for served in gateway.models(CLAIMS):
        assert gateway.resolve(CLAIMS, served.name) == served


@pytest.mark.parametrize(
    "reference", ["secret", "other/secret", Key("Endpoint", "other", "secret"), "nothing", "", "/"]
)
async def test_what_a_caller_may_not_use_does_not_exist(
    gateway: Gateway, declared: Declared, reference: str | Key
) -> None:
    declared.add("other", "secret")
    declared.add("claims", "secretary")
    with pytest.raises(NotFound) as caught:
        gateway.resolve(CLAIMS, reference)
    assert "other" not in caught.value.hint
    assert gateway.resolve(REGION, "other/secret").project == "other"


async def test_the_nearest_name_is_offered(gateway: Gateway, declared: Declared) -> None:
    declared.add("claims", "embedder")
    with pytest.raises(NotFound) as caught:
        await gateway.embed("claims", "embeder", ["water"], input_type="query")
    assert "'embedder'" in caught.value.hint


async def test_vectors_come_in_order_over_several_requests(
    gateway: Gateway, declared: Declared, embedder: Worker
) -> None:
    declared.add("system", "e5", embedder.url)
    texts = [f"text {number}" for number in range(gateway_module.EMBED_BATCH + 3)]
    answer = await gateway.embed("claims", "e5", texts, input_type="passage")
    assert len(answer.vectors) == len(texts)
    last = await gateway.embed("", "system/e5", texts[-1:], input_type="passage")
    assert answer.vectors[-1] == pytest.approx(last.vectors[0], abs=1e-3)
    assert (answer.model, answer.site) == ("multilingual", "local-a")
    assert answer.tokens > last.tokens > 0
    assert gateway.in_progress() == []


async def test_an_endpoint_of_another_task_is_invalid(gateway: Gateway, declared: Declared, embedder: Worker) -> None:
    declared.add("system", "e5", embedder.url)
    declared.add("system", "qwen", task="chat")
    with pytest.raises(Invalid, match="serves embeddings, not chat") as caught:
        async with gateway.chat(CLAIMS, "e5", {"messages": []}):
            pass
    assert "qwen" in caught.value.hint
    with pytest.raises(Invalid, match="serves chat, not embeddings"):
        await gateway.embed("claims", "qwen", ["water"], input_type="query")


@pytest.mark.parametrize(("spec", "says"), [({}, "Starting: 0 replicas"), ({"replicas": 0}, "no ready replica")])
async def test_no_ready_replica_says_the_state_and_what_to_do(
    gateway: Gateway, declared: Declared, spec: dict[str, Any], says: str
) -> None:
    declared.add("claims", "e5", **spec)
    with pytest.raises(Transient, match=says) as caught:
        await gateway.embed("claims", "e5", ["water"], input_type="query")
    assert caught.value.hint
    assert caught.value.retry_after_seconds > 0


async def test_a_dead_replica_is_stepped_over(gateway: Gateway, declared: Declared, embedder: Worker) -> None:
    declared.add("system", "e5", f"http://127.0.0.1:{free_port()}", embedder.url)
    for _ in range(4):
        assert (await gateway.embed("claims", "e5", ["water"], input_type="query")).tokens
    assert gateway.in_progress() == []


async def test_when_all_are_dead_the_last_error_says_why(gateway: Gateway, declared: Declared) -> None:
    declared.add("system", "e5", *(f"http://127.0.0.1:{free_port()}" for _ in range(2)))
    with pytest.raises(Transient, match="does not accept connections"):
        await gateway.embed("claims", "e5", ["water"], input_type="query")


async def test_the_least_busy_replica_is_chosen(
    gateway: Gateway, declared: Declared, embedder: Worker, tmp_path: Path
) -> None:
    (tmp_path / "replica.key").write_text(embedder.key)
    with workers.running(tmp_path, "e5", E5_ARGUMENTS) as second:
        declared.add("system", "e5", embedder.url, second.url)
        long = ["The region keeps data in the country. " * 20] * 16
        calls = [asyncio.create_task(gateway.embed("", "e5", long, input_type="passage")) for _ in range(4)]
        await asyncio.sleep(0.3)
        assert sorted(gateway.in_progress()) == sorted([((embedder.url,), 2.0), ((second.url,), 2.0)])
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert gateway.in_progress() == []


async def test_a_full_queue_is_said(
    gateway: Gateway, declared: Declared, embedder: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "WAITING_MAX", 1)
    declared.add("system", "e5", embedder.url, concurrency_max=1)
    calls = [asyncio.create_task(gateway.embed("", "e5", ["water " * 200] * 8, input_type="passage")) for _ in range(5)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, FalajError)]
    assert len(refused) == 3
    assert all("requests waiting" in error.message for error in refused)


@pytest.mark.model
async def test_a_chat_is_streamed_as_the_replica_sends_it(
    chat_gateway: Gateway, declared: Declared, llama: Worker
) -> None:
    declared.add("system", "qwen", f"http://127.0.0.1:{free_port()}", llama.url, task="chat")
    body = {
        "model": "qwen",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 12,
        "stream": True,
    }
    for _ in range(2):  # one of the two begins at the dead replica
        async with chat_gateway.chat(CLAIMS, "qwen", body) as reply:
            content = b"".join([piece async for piece in reply.body])
        assert reply.content_type.startswith("text/event-stream")
        events = [line.removeprefix(b"data: ") for line in content.split(b"\n\n") if line]
        assert events[-1] == b"[DONE]"
        chunks = [orjson.loads(event) for event in events[:-1]]
        assert "Paris" in "".join(choice["delta"].get("content") or "" for c in chunks for choice in c["choices"])
        assert {chunk["model"] for chunk in chunks} == {"multilingual"}
    assert body["model"] == "qwen", "the caller's body was changed"


@pytest.mark.model
async def test_a_prompt_past_the_context_is_invalid_and_not_tried_elsewhere(
    chat_gateway: Gateway, declared: Declared, llama: Worker
) -> None:
    declared.add("system", "qwen", llama.url, task="chat")
    body = {"messages": [{"role": "user", "content": "word " * 400}]}
    with pytest.raises(Invalid, match=r"\d+ tokens; the model's context holds 256"):
        async with chat_gateway.chat(CLAIMS, "qwen", body):
            pass
    assert chat_gateway.in_progress() == []


@pytest.mark.model
async def test_leaving_early_frees_the_replica(chat_gateway: Gateway, declared: Declared, llama: Worker) -> None:
    declared.add("system", "qwen", llama.url, task="chat")
    body = {"messages": [{"role": "user", "content": "Count to a thousand."}], "stream": True, "max_tokens": 200}
    async with chat_gateway.chat(CLAIMS, "qwen", body) as reply:
        await anext(reply.body)
        assert chat_gateway.in_progress() == [((llama.url,), 1.0)]
    assert chat_gateway.in_progress() == []
    await asyncio.sleep(3)
    assert await asyncio.to_thread(llama.metric, "requests_processing") == 0
