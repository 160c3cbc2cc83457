"""The e5 engine: its worker against the wire, its limits, and what happens when callers leave."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from falaj.engines.e5.driver import E5
from falaj.engines.interface import ReplicaSpec
from falaj.engines.supervisor.processes import FileProcesses
from falaj.errors import Terminal
from tests.engines import workers
from tests.engines.workers import Worker

ARGUMENTS = ["--alias", "e5", "--threads", "1"]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with workers.running(tmp_path_factory.mktemp("e5"), "e5", ARGUMENTS) as running:
        yield running


def embed(worker: Worker, texts: object, **fields: object) -> list[list[float]]:
    status, answer = worker.call("POST", "/v1/embeddings", {"input": texts, **fields})
    assert status == 200, answer
    return [item["embedding"] for item in answer["data"]]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_vectors_have_unit_length_and_find_the_same_thing_in_another_language(worker: Worker) -> None:
    passages = embed(worker, ["البيانات تبقى داخل البلد.", "The cat sleeps on the sofa."], input_type="passage")
    (question,) = embed(worker, "Does the data stay in the country?", input_type="query")
    assert [len(vector) for vector in passages] == [384, 384]
    assert all(math.isclose(cosine(vector, vector), 1, abs_tol=1e-4) for vector in passages)
    assert cosine(question, passages[0]) > cosine(question, passages[1])


def test_query_and_passage_are_different_inputs(worker: Worker) -> None:
    (query,) = embed(worker, ["water"], input_type="query")
    (passage,) = embed(worker, ["water"], input_type="passage")
    assert cosine(query, passage) < 0.999
    assert embed(worker, ["water"]) == [passage]


def test_usage_counts_tokens(worker: Worker) -> None:
    _, one = worker.call("POST", "/v1/embeddings", {"input": "water"})
    _, two = worker.call("POST", "/v1/embeddings", {"input": ["water", "water"]})
    assert 0 < one["usage"]["prompt_tokens"] * 2 == two["usage"]["prompt_tokens"]
    assert one["model"] == "e5"


def test_a_text_longer_than_the_model_reads_at_once_is_not_cut_off(worker: Worker) -> None:
    long = "The region keeps data in the country. " * 52 + "Zebras graze on the moon."
    vectors = embed(worker, [long, long.replace("Zebras graze on the moon.", "Invoices are paid in March.")])
    assert cosine(*vectors) < 0.9999


def test_characters_that_overflow_the_library_are_spelled_out(worker: Worker) -> None:
    ligature, spelled_out = embed(worker, ["\ufdfa" * 200, "صلى الله عليه وسلم " * 30])
    assert cosine(ligature, spelled_out) > 0.9
    assert embed(worker, "zero\0byte") == embed(worker, "zerobyte")
    assert worker.process.poll() is None


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not JSON"),
        ([], 400, "not a JSON object"),
        ({"input": []}, 400, "'input' must be"),
        ({"input": [1]}, 400, "'input' must be"),
        ({"input": ["a"] * 257}, 400, "at most 256"),
        ({"input": ["ok", "a" * 8193]}, 400, "input[1]: the text has 8193 characters"),
        ({"input": "a", "input_type": "document"}, 400, "not 'query' or 'passage'"),
        ({"input": "a", "encoding_format": "base64"}, 400, "'base64' is not 'float'"),
        ({"input": "a", "dimensions": 256}, 400, "384 dimensions"),
        (b'{"input": "\\ud800"}', 400, "not JSON"),
        (b" " * ((16 << 20) + 1), 413, "larger than"),
    ],
)
def test_wrong_requests_are_refused_in_words(worker: Worker, body: object, status: int, says: str) -> None:
    found, answer = worker.call("POST", "/v1/embeddings", body)
    assert found == status
    assert says in answer["error"]["message"]


def test_only_who_shows_the_key_is_answered(worker: Worker) -> None:
    assert worker.call("POST", "/v1/embeddings", {"input": "a"}, key="wrong")[0] == 401
    assert worker.call("GET", "/health", key="")[0] == 200
    assert worker.call("GET", "/elsewhere")[0] == 404


def test_it_listens_on_loopback_only(worker: Worker) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    addresses = {line.split()[1] for line in listening.splitlines() if line.split()[3] == "0A"}
    assert [a for a in addresses if a.endswith(f":{worker.port:04X}")] == [f"0100007F:{worker.port:04X}"]


def test_a_caller_who_hangs_up_ends_his_work(worker: Worker) -> None:
    body = json.dumps({"input": ["The region keeps data in the country. " * 8] * 256}).encode()
    with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as caller:
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {worker.key}\r\n"
        caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(1.0)
    worker.call("POST", "/v1/embeddings", {"input": "next"})  # has its turn after the slice in progress
    before = worker.processor_seconds()
    time.sleep(1.5)
    assert worker.processor_seconds() - before < 0.3


def test_it_ends_at_once_when_told_to(tmp_path: Path) -> None:
    with workers.running(tmp_path, "e5", ARGUMENTS) as worker:
        assert workers.seconds_to_end(worker) < 2


def test_a_taken_port_is_said(tmp_path: Path, worker: Worker) -> None:
    assert "Address already in use" in workers.exit_message(tmp_path, "e5", ARGUMENTS, port=worker.port)


async def test_the_driver_refuses_a_file_of_weights(tmp_path: Path) -> None:
    engine = E5(FileProcesses(tmp_path), tmp_path / "replica.key")
    with pytest.raises(Terminal, match="bundled"):
        await engine.create(ReplicaSpec("a.b.0", tmp_path / "other.gguf", "other"))
