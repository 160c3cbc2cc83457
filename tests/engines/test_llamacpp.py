"""The llama.cpp engine: its worker with a real model, and how it refuses what it cannot do."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from falaj.engines.interface import ReplicaSpec
from falaj.engines.llamacpp.driver import LlamaCpp
from falaj.engines.supervisor.processes import FileProcesses
from falaj.errors import Terminal
from tests.engines import workers
from tests.engines.workers import Worker

CONTEXT_TOKENS = 256


def arguments(model: Path, *more: str) -> list[str]:
    size = ["--context-tokens", str(CONTEXT_TOKENS), "--concurrency", "2", "--threads", "2"]
    return ["--model", str(model), "--alias", "small", *size, *more]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[Worker]:
    with workers.running(tmp_path_factory.mktemp("llama"), "llamacpp", arguments(small_model)) as running:
        yield running


def chat(worker: Worker, content: str, **fields: object) -> tuple[int, dict[str, object]]:
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}
    return worker.call("POST", "/v1/chat/completions", body)


def hang_up_after(worker: Worker, seconds: float, content: str, **fields: object) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": content}], "ignore_eos": True, **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {worker.key}\r\n"
    with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as caller:
        caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(seconds)
        assert worker.metric("requests_processing") == 1


def seconds_until_idle(worker: Worker) -> float:
    begun = time.monotonic()
    while worker.metric("requests_processing"):
        assert time.monotonic() - begun < 12, "the generation goes on without its caller"
        # llama.cpp looks for callers who left when nothing has happened for a second, and a metrics call is something.
        time.sleep(1.5)
    return time.monotonic() - begun


@pytest.mark.model
def test_it_answers_under_its_alias(worker: Worker) -> None:
    status, answer = chat(worker, "What is the capital of France? Answer with one word.", max_tokens=8)
    assert status == 200
    assert "Paris" in str(answer["choices"])
    assert answer["model"] == "small"


@pytest.mark.model
def test_a_prompt_past_the_context_is_refused_with_both_numbers(worker: Worker) -> None:
    status, answer = chat(worker, "word " * (CONTEXT_TOKENS + 10), max_tokens=4)
    assert status == 400
    assert answer["error"]["type"] == "exceed_context_size_error"  # type: ignore[index]
    assert answer["error"]["n_ctx"] == CONTEXT_TOKENS  # type: ignore[index]


@pytest.mark.model
def test_every_request_has_the_whole_context(worker: Worker) -> None:
    status, answer = chat(worker, "word " * (CONTEXT_TOKENS - 80), max_tokens=4)
    assert status == 200, answer


@pytest.mark.model
def test_only_who_shows_the_key_is_answered(worker: Worker) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    for path, content in (("/v1/chat/completions", body), ("/completion", {"prompt": "hello"}), ("/metrics", None)):
        status, answer = worker.call("POST" if content else "GET", path, content, key="wrong")
        assert status == 401, (path, answer)


@pytest.mark.model
@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_hangs_up_ends_the_generation(worker: Worker, stream: bool) -> None:
    hang_up_after(worker, 2.0, "Count to one thousand.", max_tokens=200, stream=stream)
    assert seconds_until_idle(worker) < 8


@pytest.mark.model
def test_it_ends_at_once_when_told_to_also_while_it_generates(tmp_path: Path, small_model: Path) -> None:
    with workers.running(tmp_path, "llamacpp", arguments(small_model)) as worker:
        hang_up_after(worker, 1.0, "Count to one thousand.", max_tokens=200)
        assert workers.seconds_to_end(worker) < 2


@pytest.mark.model
def test_idle_weights_are_given_back_and_loaded_again(tmp_path: Path, small_model: Path) -> None:
    with workers.running(tmp_path, "llamacpp", arguments(small_model, "--idle-seconds", "2")) as worker:
        assert chat(worker, "Say yes.", max_tokens=2)[0] == 200
        loaded = worker.resident_bytes()
        deadline = time.monotonic() + 20
        while worker.resident_bytes() > loaded / 2:
            assert time.monotonic() < deadline, "the weights are still in memory"
            assert worker.call("GET", "/health")[0] == 200  # being probed is not being used
            time.sleep(0.3)
        assert chat(worker, "Say yes.", max_tokens=2)[0] == 200


@pytest.mark.model
def test_a_damaged_file_is_named_and_ends_the_worker(tmp_path: Path, small_model: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    with small_model.open("rb") as whole:
        damaged.write_bytes(whole.read(20 << 20))
    said = workers.exit_message(tmp_path, "llamacpp", arguments(damaged))
    assert f"cannot load {damaged}" in said


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        said = workers.exit_message(tmp_path, "llamacpp", arguments(tmp_path / "any.gguf"), port=port)
    assert f"port {port} cannot be used" in said


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), (b"", "not in GGUF format"), (b"PK\x03\x04" + bytes(range(64)), "not in GGUF format")],
)
async def test_the_driver_refuses_what_is_no_model(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "weights"
    if content is not None:
        path.write_bytes(content)
    engine = LlamaCpp(FileProcesses(tmp_path), tmp_path / "replica.key")
    with pytest.raises(Terminal, match=says):
        await engine.create(ReplicaSpec("a.b.0", path, "small"))
    assert await engine.list() == []
