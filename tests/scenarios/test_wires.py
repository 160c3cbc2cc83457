"""The wires when clients leave, replicas die, gateways are replaced and Postgres freezes, in a running region."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import psutil
import pytest
from openai import OpenAI

from tests.running import RunningRegion, wait_for

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

API = "/falaj/v1"
LONG = [{"role": "user", "content": "Count from one to five hundred, as words, separated by commas."}]
AGENT = {"endpoint": "system/chat", "knowledge": ["leave"], "answer_tokens_max": 40, "passages_max": 1}
DOCUMENT = """# Annual leave

Every employee of the water office has 22 days of annual leave. Requests go to the team lead two weeks before.
"""


@pytest.fixture(scope="module")
def key(serving: RunningRegion) -> str:
    return serving.project("scenario-wires")


@pytest.fixture(autouse=True)
def _settled(serving: RunningRegion) -> None:
    """What the test before broke has come back."""
    wait_for(serving.ready, seconds_max=60)
    serving.wait_ready(f"{API}/projects/system/endpoints/chat", seconds_max=90)


def client(region: RunningRegion, key: str) -> OpenAI:
    return OpenAI(base_url=f"{region.url}/v1", api_key=key, max_retries=0, timeout=180)


def cpu_seconds(process: psutil.Process) -> float:
    """How much time a process has computed."""
    times = process.cpu_times()
    return float(times.user + times.system)


def computes(process: psutil.Process, seconds: float = 1.0) -> bool:
    """Whether the process computes now."""
    before = cpu_seconds(process)
    time.sleep(seconds)
    return cpu_seconds(process) - before > 0.25 * seconds


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """The process and all that it started, stopped as by a debugger."""
    tree = [process, *process.children(recursive=True)]
    for one in tree:
        one.suspend()
    try:
        yield
    finally:
        for one in tree:
            one.resume()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_generation_stops_when_the_client_hangs_up(serving: RunningRegion, key: str, stream: bool) -> None:
    replica = serving.replica("chat")
    wait_for(lambda: not computes(replica, 0.5), seconds_max=30)
    body = json.dumps({"model": "chat", "messages": LONG, "max_tokens": 1500, "stream": stream}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: falaj\r\nauthorization: Bearer {key}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", serving.port), timeout=120) as connection:
        connection.sendall(head.encode() + body)
        if stream:
            received = b""
            while received.count(b"data: ") < 4:
                received += connection.recv(4096)
        wait_for(lambda: computes(replica, 0.5), seconds_max=30)
    wait_for(lambda: not computes(replica), seconds_max=15, what=lambda: "the replica went on generating for nobody")


def test_a_stream_whose_replica_dies_ends_with_an_error_and_the_endpoint_comes_back(
    serving: RunningRegion, key: str
) -> None:
    stream = client(serving, key).chat.completions.create(model="chat", messages=LONG, max_tokens=1500, stream=True)
    pieces = iter(stream)
    for _ in range(3):
        next(pieces)
    serving.replica("chat").kill()
    with pytest.raises(openai.APIError, match="broke off"):
        for _ in pieces:
            pass

    def answers() -> bool:
        try:
            answer = client(serving, key).chat.completions.create(
                model="chat", messages=[{"role": "user", "content": "Say yes."}], max_tokens=2
            )
        except openai.InternalServerError:  # 503: it is starting
            return False
        return bool(answer.choices)

    wait_for(answers, seconds_max=90, what=lambda: serving.log("supervisor"))


def test_a_short_stream_is_finished_when_the_gateway_is_asked_to_stop(serving: RunningRegion, key: str) -> None:
    gateway = serving.process("gateway")
    stream = client(serving, key).chat.completions.create(model="chat", messages=LONG, max_tokens=2, stream=True)
    pieces = iter(stream)
    next(pieces)
    gateway.send_signal(signal.SIGTERM)
    rest = list(pieces)
    assert rest[-1].choices[0].finish_reason == "length"
    gateway.wait(15)


def test_a_long_stream_is_told_that_the_gateway_stops(serving: RunningRegion, key: str) -> None:
    gateway = serving.process("gateway")
    stream = client(serving, key).chat.completions.create(model="chat", messages=LONG, max_tokens=1500, stream=True)
    pieces = iter(stream)
    next(pieces)
    asked_at = time.monotonic()
    with frozen(serving.replica("chat")):  # so that it cannot end before its time
        gateway.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="stopping"):
            for _ in pieces:
                pass
    assert 8 < time.monotonic() - asked_at < 14
    gateway.wait(5)
    wait_for(serving.ready, seconds_max=30)
    assert serving.process("gateway").pid != gateway.pid


def test_known_keys_go_on_answering_while_postgres_is_frozen(serving: RunningRegion, key: str) -> None:
    asking = client(serving, key)
    asking.models.list()
    with frozen(serving.process("postgres")):
        wait_for(lambda: not serving.ready(), seconds_max=20)
        answer = asking.chat.completions.create(model="chat", messages=LONG, max_tokens=3)
        assert answer.choices
        assert {"chat", "e5"} <= {model.id for model in asking.models.list()}
        refused = serving.call("GET", f"{API}/buckets", key=key)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
    wait_for(serving.ready, seconds_max=60)
    assert serving.call("GET", f"{API}/buckets", key=key).status == 200


def test_a_killed_gateway_comes_back_and_knows_its_keys(serving: RunningRegion, key: str) -> None:
    serving.process("gateway").kill()
    wait_for(serving.ready, seconds_max=30)
    assert {"chat", "e5"} <= {model.id for model in client(serving, key).models.list()}


# --- agents -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def agent(serving: RunningRegion) -> str:
    """The key of a project with the agent ``clerk`` over one document."""
    made = serving.project(
        "clerks",
        {"kind": "Bucket", "metadata": {"name": "rules"}, "spec": {}},
        {"kind": "KnowledgeBase", "metadata": {"name": "leave"}, "spec": {"sources": [{"bucket": "rules"}]}},
        {"kind": "Agent", "metadata": {"name": "clerk"}, "spec": AGENT},
    )
    project = f"{API}/projects/clerks"
    serving.wait_ready(f"{project}/buckets/rules")
    assert serving.call("PUT", f"{project}/buckets/rules/objects/leave.md", DOCUMENT.encode()).status == 200

    def read() -> bool:
        documents = serving.call("GET", f"{project}/knowledgebases/leave/documents").json()["items"]
        return [document["state"] for document in documents] == ["ready"]

    wait_for(read, seconds_max=90, what=lambda: serving.log("control"))
    serving.wait_ready(f"{project}/agents/clerk")
    return made


QUESTION = "How many days of annual leave does an employee have?"


def grounded(extension: dict[str, object], text: str) -> None:
    """The answer cites the document, or is a refusal; which of the two is the model's affair, tested elsewhere."""
    assert {"citations", "refused", "site", "seconds"} <= set(extension)
    assert extension["site"] == "local-a"
    if extension["refused"]:
        assert extension["citations"] == []
        return
    (citation,) = extension["citations"]
    assert citation["document"] == "rules/leave.md"
    assert DOCUMENT[citation["start"] : citation["end"]] == citation["quote"]
    assert text


def test_passages_are_found(serving: RunningRegion, agent: str) -> None:
    body = {"query": "كم عدد أيام الإجازة السنوية؟", "limit": 3}
    found = serving.call("POST", f"{API}/projects/clerks/knowledgebases/leave/search", body, key=agent)
    assert found.status == 200, found.data
    passage = found.json()["items"][0]
    assert "22 days" in passage["text"]
    assert DOCUMENT[passage["start"] : passage["end"]] == passage["text"]


def test_an_agent_answers_over_rest(serving: RunningRegion, agent: str) -> None:
    answer = serving.call("POST", f"{API}/projects/clerks/agents/clerk/ask", {"question": QUESTION}, key=agent)
    assert answer.status == 200, answer.data
    fields = answer.json()
    assert set(fields) == {"answer", "citations", "refused", "model", "site", "usage", "seconds"}
    assert fields["usage"]["prompt_tokens"] > 0
    grounded(fields, fields["answer"])


def test_an_agent_is_a_model_of_the_openai_wire(serving: RunningRegion, agent: str) -> None:
    asking = client(serving, agent)
    assert "agent/clerk" in {model.id for model in asking.models.list()}
    messages = [{"role": "system", "content": "ignored"}, {"role": "user", "content": QUESTION}]
    answer = asking.chat.completions.create(model="agent/clerk", messages=messages)
    assert answer.model == "agent/clerk"
    assert answer.usage
    grounded(answer.model_extra["falaj"], answer.choices[0].message.content or "")


def test_an_agent_streams_its_words_and_then_its_citations(serving: RunningRegion, agent: str) -> None:
    stream = client(serving, agent).chat.completions.create(
        model="agent/clerk",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage
    assert chunks[-2].choices[0].finish_reason == "stop"
    grounded(chunks[-2].model_extra["falaj"], text)


def test_another_project_s_key_does_not_find_the_agent(serving: RunningRegion, agent: str, key: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client(serving, key).chat.completions.create(
            model="agent/clerk", messages=[{"role": "user", "content": QUESTION}]
        )
    refused = serving.call("POST", f"{API}/projects/clerks/agents/clerk/ask", {"question": QUESTION}, key=key)
    assert refused.status == 404
