"""The client of replicas, against real workers that are killed, frozen and restarted under it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest

from falaj.engines.openai_upstream import OpenAIUpstream
from falaj.errors import Invalid, Terminal, Transient
from tests.engines import workers
from tests.engines.workers import Worker
from tests.postgres import free_port

E5_ARGUMENTS = ["--alias", "e5", "--threads", "1"]


@pytest.fixture
def embedder(tmp_path: Path) -> Iterator[Worker]:
    with workers.running(tmp_path, "e5", E5_ARGUMENTS) as worker:
        yield worker


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[Worker]:
    arguments = ["--model", str(small_model), "--alias", "small", "--context-tokens", "256", "--concurrency", "2"]
    with workers.running(tmp_path_factory.mktemp("llama"), "llamacpp", arguments) as worker:
        yield worker


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[OpenAIUpstream]:
    client = OpenAIUpstream((tmp_path / "replica.key").read_text())
    yield client
    await client.close()


def prompt(text: str, **fields: object) -> bytes:
    return orjson.dumps({"messages": [{"role": "user", "content": text}], "temperature": 0, **fields})


async def test_vectors_and_tokens_come_in_order(embedder: Worker, upstream: OpenAIUpstream) -> None:
    both = await upstream.embed(embedder.url, ["water", "law"], input_type="passage")
    law = await upstream.embed(embedder.url, ["law"], input_type="passage")
    assert both.vectors[1] == pytest.approx(law.vectors[0], abs=1e-4)
    assert both.tokens > law.tokens > 0


async def test_a_refusal_is_invalid_and_says_why(embedder: Worker, upstream: OpenAIUpstream) -> None:
    with pytest.raises(Invalid, match="9000 characters"):
        await upstream.embed(embedder.url, ["a" * 9000], input_type="query")


async def test_a_wrong_key_is_not_tried_again(embedder: Worker) -> None:
    client = OpenAIUpstream("wrong-key")
    try:
        with pytest.raises(Terminal, match="refuses the region's key"):
            await client.embed(embedder.url, ["water"], input_type="query")
    finally:
        await client.close()


async def test_nobody_there_is_transient(embedder: Worker, upstream: OpenAIUpstream) -> None:
    with pytest.raises(Transient, match="does not accept connections"):
        await upstream.embed(f"http://127.0.0.1:{free_port()}", ["water"], input_type="query")


async def test_a_replica_that_restarted_is_called_over_a_fresh_connection(
    tmp_path: Path, embedder: Worker, upstream: OpenAIUpstream
) -> None:
    await upstream.embed(embedder.url, ["water"], input_type="query")  # leaves a pooled connection
    embedder.kill()
    with workers.running(tmp_path, "e5", E5_ARGUMENTS, port=embedder.port):
        answer = await upstream.embed(embedder.url, ["water"], input_type="query")
    assert len(answer.vectors) == 1


async def test_a_replica_that_is_killed_under_a_request_is_transient(
    embedder: Worker, upstream: OpenAIUpstream
) -> None:
    texts = ["The region keeps data in the country. " * 20] * 64
    request = asyncio.create_task(upstream.embed(embedder.url, texts, input_type="passage"))
    await asyncio.sleep(0.7)
    embedder.kill()
    with pytest.raises(Transient):
        await request


async def test_a_frozen_replica_is_given_up(tmp_path: Path, embedder: Worker) -> None:
    client = OpenAIUpstream(embedder.key, timeout_seconds=1.0)
    os.kill(embedder.process.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(Transient, match="did not answer in time"):
            await client.embed(embedder.url, ["water"], input_type="query")
        assert time.monotonic() - begun < 5
    finally:
        os.kill(embedder.process.pid, signal.SIGCONT)
        await client.close()


@pytest.mark.model
async def test_a_stream_comes_piece_by_piece(llama: Worker) -> None:
    client = OpenAIUpstream(llama.key)
    body = prompt("Count from one to twenty.", stream=True, max_tokens=24)
    try:
        async with client.post(llama.url, "/v1/chat/completions", body) as reply:
            assert reply.status == 200
            assert reply.content_type.startswith("text/event-stream")
            pieces = [piece async for piece in reply.body]
    finally:
        await client.close()
    assert len(pieces) > 5
    assert b"".join(pieces).rstrip().endswith(b"data: [DONE]")


@pytest.mark.model
async def test_a_prompt_past_the_context_says_both_numbers(llama: Worker) -> None:
    client = OpenAIUpstream(llama.key)
    try:
        with pytest.raises(Invalid, match=r"the prompt has \d+ tokens; the model's context holds 256"):
            async with client.post(llama.url, "/v1/chat/completions", prompt("word " * 300)):
                pass
    finally:
        await client.close()


@pytest.mark.model
async def test_leaving_early_ends_the_generation(llama: Worker) -> None:
    client = OpenAIUpstream(llama.key)
    body = prompt("Count to one thousand.", stream=True, max_tokens=200, ignore_eos=True)
    try:
        async with client.post(llama.url, "/v1/chat/completions", body) as reply:
            await anext(reply.body)
        deadline = time.monotonic() + 5
        while await asyncio.to_thread(llama.metric, "requests_processing"):
            assert time.monotonic() < deadline, "the generation goes on without its caller"
            await asyncio.sleep(0.3)
    finally:
        await client.close()


@pytest.mark.model
async def test_a_replica_that_is_killed_in_mid_stream_is_transient(tmp_path: Path, small_model: Path) -> None:
    arguments = ["--model", str(small_model), "--alias", "small", "--context-tokens", "256", "--concurrency", "1"]
    with workers.running(tmp_path, "llamacpp", arguments) as worker:
        client = OpenAIUpstream(worker.key)
        body = prompt("Count to one thousand.", stream=True, max_tokens=200, ignore_eos=True)
        try:
            async with client.post(worker.url, "/v1/chat/completions", body) as reply:
                await anext(reply.body)
                worker.kill()
                with pytest.raises(Transient, match="broke off"):
                    [piece async for piece in reply.body]
        finally:
            await client.close()
