"""What every ``Inference`` must do, against a real replica of each kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest

from falaj.engines.interface import Inference
from falaj.engines.openai_upstream import OpenAIUpstream
from falaj.errors import Invalid, Transient
from tests.engines import workers
from tests.engines.workers import Worker
from tests.postgres import free_port


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with workers.running(tmp_path_factory.mktemp("e5"), "e5", ["--alias", "e5", "--threads", "1"]) as worker:
        yield worker


@pytest.fixture(params=["openai-upstream"])
async def inference(embedder: Worker) -> AsyncIterator[Inference]:
    client = OpenAIUpstream(embedder.key)
    yield client
    await client.close()


async def test_one_vector_for_each_text_in_order(inference: Inference, embedder: Worker) -> None:
    texts = [f"passage number {number}" for number in range(7)]
    together = await inference.embed(embedder.url, texts, input_type="passage")
    assert [len(vector) for vector in together.vectors] == [384] * 7
    alone = await inference.embed(embedder.url, texts[5:6], input_type="passage")
    assert together.vectors[5] == pytest.approx(alone.vectors[0], abs=1e-3)


async def test_the_input_type_matters(inference: Inference, embedder: Worker) -> None:
    query = await inference.embed(embedder.url, ["water"], input_type="query")
    passage = await inference.embed(embedder.url, ["water"], input_type="passage")
    assert query.vectors != passage.vectors


async def test_many_calls_at_once_are_all_answered(inference: Inference, embedder: Worker) -> None:
    calls = [inference.embed(embedder.url, [f"text {number}"], input_type="query") for number in range(20)]
    assert all(len(answer.vectors) == 1 for answer in await asyncio.gather(*calls))


async def test_a_post_brings_the_body_as_it_was_sent(inference: Inference, embedder: Worker) -> None:
    body = orjson.dumps({"input": "water"})
    async with inference.post(embedder.url, "/v1/embeddings", body) as reply:
        assert reply.status == 200
        content = b"".join([part async for part in reply.body])
    assert orjson.loads(content)["model"] == "e5"


async def test_a_wrong_request_is_invalid(inference: Inference, embedder: Worker) -> None:
    with pytest.raises(Invalid):
        async with inference.post(embedder.url, "/v1/embeddings", b"not JSON"):
            pass


async def test_nobody_there_is_transient(inference: Inference) -> None:
    with pytest.raises(Transient):
        async with inference.post(f"http://127.0.0.1:{free_port()}", "/v1/embeddings", b"{}"):
            pass
