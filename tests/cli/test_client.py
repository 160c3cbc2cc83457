"""The client against servers that misbehave; what it does with a good one is tested with the commands."""

from __future__ import annotations

import io
import socket
import time
from typing import Any

import pytest

from falaj.cli import client as module
from falaj.cli.client import Client, NoRegion, segments
from falaj.errors import (
    Conflict,
    Denied,
    FalajError,
    Invalid,
    LimitExceeded,
    NotFound,
    Terminal,
    Transient,
)
from tests.cli.scripted import answer, scripted


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("kind", [Invalid, Denied, NotFound, Conflict, LimitExceeded, Terminal, FalajError])
def test_an_error_of_the_wire_is_the_same_error_here(kind: type[FalajError]) -> None:
    error = kind("the bucket is gone", where="Bucket/a/b", hint="declare it")
    with scripted(answer(418, {"error": error.as_dict()})) as server, pytest.raises(FalajError) as raised:
        Client(server.url, "").get("/falaj/v1/kinds")
    assert type(raised.value) is kind
    assert raised.value.as_dict() == error.as_dict()
    assert len(server.requests) == 1, "what cannot pass is not repeated"


def test_an_error_of_the_openai_wire_is_told_by_its_status() -> None:
    document = {"error": {"message": "no such model", "type": "x", "param": "model", "code": "model_not_found"}}
    with scripted(answer(404, document)) as server, pytest.raises(NotFound) as raised:
        list(Client(server.url, "").events("/v1/chat/completions", {}, headers={}, seconds_max=5))
    assert (raised.value.message, raised.value.where) == ("no such model", "model")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"<html>", Denied),
        (404, b"", NotFound),
        (413, b"[]", LimitExceeded),
        (502, b"\xff\xfe", Transient),
        (500, b'{"error": "text"}', FalajError),
        (409, b'{"error": {"code": 3}}', Conflict),
    ],
)
def test_an_error_that_is_not_ours_is_told_by_its_status(status: int, body: bytes, kind: type[FalajError]) -> None:
    with scripted(answer(status, body)) as server, pytest.raises(FalajError) as raised:
        Client(server.url, "").post("/falaj/v1/apply", {})
    assert type(raised.value) is kind
    assert str(status) in raised.value.message
    assert "--url" in raised.value.hint


def test_what_is_not_json_is_said_to_be_so() -> None:
    with scripted(answer(200, b"<html>hello</html>")) as server, pytest.raises(Invalid, match="not JSON"):
        Client(server.url, "").get("/falaj/v1/kinds")


@pytest.mark.parametrize("garbage", [b"", b"\0\1\2\3 what\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"])
def test_garbage_and_cut_answers_are_tried_again_where_that_is_safe(garbage: bytes) -> None:
    with scripted(garbage) as server:
        with pytest.raises(Transient, match="broke off"):
            Client(server.url, "").get("/x")
        assert len(server.requests) == module.ATTEMPTS_MAX
        with pytest.raises(Transient, match="broke off"):
            Client(server.url, "").post("/x", {})
        assert len(server.requests) == module.ATTEMPTS_MAX + 1, "a question is not asked twice"


def test_a_failure_that_passes_is_not_seen() -> None:
    away = answer(503, {"error": Transient("away").as_dict()}, "Retry-After: 0")
    with scripted(away, b"", answer(200, {"items": []})) as server:
        assert Client(server.url, "").get("/x") == {"items": []}
        assert len(server.requests) == 3


def test_content_is_sent_again_from_its_beginning() -> None:
    with scripted(b"", answer(200, {"key": "k"})) as server:
        Client(server.url, "").put("/x", io.BytesIO(b"12345"), size_bytes=5, content_type="text/plain")
        assert [request.partition(b"\r\n\r\n")[2] for request in server.requests] == [b"12345", b"12345"]


def test_a_deadline_holds_against_a_server_that_dribbles() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with scripted([(0.0, head), *[(0.1, b" ")] * 60]) as server:
        started = time.monotonic()
        with pytest.raises(Transient, match="in time"):
            Client(server.url, "").get("/x", seconds_max=0.5)
        assert time.monotonic() - started < 3


def test_a_deadline_holds_against_a_server_that_says_nothing() -> None:
    with scripted([(4.0, b"")]) as server:
        started = time.monotonic()
        with pytest.raises(Transient, match="no answer in time"):
            Client(server.url, "").get("/x", seconds_max=0.4)
        assert time.monotonic() - started < 3


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(NoRegion, match="no region answers") as raised:
        Client(url, "").post("/x", {})
    assert raised.value.code == "Transient"
    assert url in raised.value.message
    assert "falaj up" in raised.value.hint


def test_an_answer_has_a_size_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 1000)
    with scripted(answer(200, b'"' + b"a" * 2000 + b'"')) as server, pytest.raises(LimitExceeded, match="1000 bytes"):
        Client(server.url, "").get("/x")


def test_a_key_is_sent_and_a_query_is_escaped() -> None:
    with scripted(answer(200, {})) as server:
        Client(server.url, "flj_a_b").get("/x", {"label": ["a=b", "c=ع"], "after": None, "project": ""})
    assert b"Authorization: Bearer flj_a_b\r\n" in server.requests[0]
    assert server.lines == ["GET /x?label=a%3Db&label=c%3D%D8%B9 HTTP/1.1"]


def test_a_redirect_is_not_followed() -> None:
    with scripted(answer(302, b"", "Location: http://127.0.0.1:1/")) as server:
        with pytest.raises(FalajError, match="status 302"):
            Client(server.url, "key").get("/x")
        assert len(server.requests) == 1


def stream(*pieces: bytes) -> list[tuple[float, bytes]]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return [(0.0, head), *((0.01, piece) for piece in pieces)]


def events(url: str) -> list[Any]:
    return list(Client(url, "").events("/v1/chat/completions", {"a": 1}, headers={"X": "y"}, seconds_max=5))


def test_events_are_put_together_wherever_they_were_cut() -> None:
    text = 'data: {"a": "مرحبا"}\r\n\r\n: a comment\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n'.encode()
    with scripted(stream(*(text[i : i + 3] for i in range(0, len(text), 3)))) as server:
        assert events(server.url) == [{"a": "مرحبا"}, {"b": 2}]
    assert b"X: y\r\n" in server.requests[0]


def test_a_stream_that_breaks_off_is_an_error() -> None:
    with scripted(stream(b'data: {"a": 1}\n\n')) as server, pytest.raises(Transient, match="before its end"):
        events(server.url)


def test_an_error_in_a_stream_is_raised() -> None:
    piece = b'data: {"error": {"message": "the replica died", "code": "service_unavailable", "param": null}}\n\n'
    with scripted(stream(b'data: {"a": 1}\n\n', piece)) as server, pytest.raises(Transient, match="the replica died"):
        events(server.url)


def test_a_download_that_is_cut_is_an_error() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n12345"
    with scripted(cut) as server, Client(server.url, "").download("/x") as (size_bytes, pieces):
        assert size_bytes == 90
        with pytest.raises(Transient, match="broke off"):
            b"".join(pieces)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:7440", "ftp://a", "http://", "http://a:99999", "http://u:p@a", "http://a/?q", "file:///etc"]
)
def test_what_is_not_an_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="not a region's address"):
        Client(url, "")


def test_a_part_of_a_path_stays_one_part() -> None:
    assert segments("keys", "a/../b c", "ع") == "/falaj/v1/keys/a%2F..%2Fb%20c/%D8%B9"
