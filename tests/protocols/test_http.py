"""Calls over real sockets: bounded bodies, clear refusals, streams that end when the client leaves."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from falaj.errors import Conflict, Denied, FalajError, Invalid, LimitExceeded, NotFound, Terminal, Transient
from falaj.protocols import http
from falaj.protocols.http import Call, ClientGone, MethodNotAllowed, Unauthenticated, error_headers, status_of
from tests.protocols.serving import ask, exchange, served

LIMIT = 1024


class Echo:
    """Answers what `act` makes of a call; errors as `status: message`."""

    def __init__(self, act) -> None:
        self.act = act
        self.gone = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        call = Call(scope, receive, send, "r-1")
        try:
            await self.act(call)
        except FalajError as error:
            await call.answer_json(status_of(error), error.as_dict(), error_headers(error))
        except ClientGone:
            self.gone.set()


async def body_length(call: Call) -> None:
    await call.answer_json(200, {"length": len(await call.body(LIMIT))})


async def json_back(call: Call) -> None:
    await call.answer_json(200, await call.json(LIMIT))


async def test_a_body_up_to_the_limit_is_read() -> None:
    async with served(Echo(body_length)) as port:
        assert (await ask(port, "POST", "/", b"x" * LIMIT)).json() == {"length": LIMIT}


async def test_a_declared_length_past_the_limit_is_refused_before_the_body_comes() -> None:
    async with served(Echo(body_length)) as port:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n"
        answer = await exchange(port, head)
        assert answer.status == 413
        assert "1,024 bytes" in answer.json()["message"]


async def test_the_client_of_a_refused_body_gets_to_read_the_refusal() -> None:
    async with served(Echo(body_length)) as port:
        answer = await ask(port, "POST", "/", b"x" * (10 << 20))
        assert answer.status == 413


async def test_a_chunked_body_without_a_length_is_bounded_too() -> None:
    async with served(Echo(body_length)) as port:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        good = head + b"200\r\n" + b"x" * 512 + b"\r\n0\r\n\r\n"
        assert (await exchange(port, good)).json() == {"length": 512}
        answer = await exchange(port, head + (b"200\r\n" + b"x" * 512 + b"\r\n") * 5)
        assert answer.status == 413


async def test_a_body_that_dribbles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def impatient(call: Call) -> None:
        await call.body(LIMIT, seconds_max=0.2)

    async with served(Echo(impatient)) as port:
        answer = await exchange(port, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc")
        assert answer.status == 413
        assert "0.2 seconds" in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b"", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"[1]", "an array, not a JSON object"),
        (b"null", "null, not a JSON object"),
        (b"[" * 1000, "not JSON"),
        (b'{"a": NaN}', "not JSON"),
    ],
)
async def test_what_is_not_a_json_object_is_refused_with_its_place(body: bytes, wrong: str) -> None:
    async with served(Echo(json_back)) as port:
        answer = await ask(port, "POST", "/", body)
        assert answer.status == 400
        assert wrong in answer.json()["message"]


async def test_json_is_answered_with_security_headers_and_without_a_banner() -> None:
    async with served(Echo(json_back)) as port:
        answer = await ask(port, "POST", "/", b'{"a": "\xd8\xb3"}')
        assert answer.json() == {"a": "س"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"] == "r-1"
        assert "server" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_large_answer_goes_in_pieces_and_arrives_whole() -> None:
    content = bytes(range(256)) * 8192

    async def large(call: Call) -> None:
        await call.answer(200, content, b"application/octet-stream")

    async with served(Echo(large)) as port:
        assert (await ask(port, "GET", "/")).body == content


async def test_nothing_is_answered_with_204() -> None:
    async with served(Echo(lambda call: call.answer_nothing())) as port:
        answer = await ask(port, "DELETE", "/")
        assert (answer.status, answer.body) == (204, b"")


async def test_a_stream_stops_when_the_client_hangs_up() -> None:
    sent = 0

    async def endless(call: Call) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 1
                yield b"data: x\n\n"
                await asyncio.sleep(0.01)

        await call.body(LIMIT)
        await call.while_connected(call.stream(pieces()))

    echo = Echo(endless)
    async with served(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readuntil(b"data: x")
        writer.close()
        await asyncio.wait_for(echo.gone.wait(), 5)
        before = sent
        await asyncio.sleep(0.1)
        assert sent == before


async def test_a_client_that_stops_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PIECE_SECONDS_MAX", 0.3)

    async def endless(call: Call) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536

        await call.stream(pieces())

    echo = Echo(endless)
    async with served(echo) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.wait_for(echo.gone.wait(), 10)
        writer.close()


async def test_work_that_fails_while_the_client_waits_is_an_error_and_not_a_hang_up() -> None:
    async def fail(call: Call) -> None:
        async def work() -> None:
            raise Conflict("taken")

        await call.body(LIMIT)
        await call.while_connected(work())

    async with served(Echo(fail)) as port:
        assert (await ask(port, "GET", "/")).status == 409


async def test_unknown_and_unreadable_query_parameters_are_refused() -> None:
    async def query(call: Call) -> None:
        await call.answer_json(200, call.query("limit", "label"))

    async with served(Echo(query)) as port:
        answer = await ask(port, "GET", "/?limit=5&label=a%3Db&label=c")
        assert answer.json() == {"limit": ["5"], "label": ["a=b", "c"]}
        answer = await ask(port, "GET", "/?limt=5")
        assert answer.status == 400
        assert "limit" in answer.json()["hint"]
        assert (await ask(port, "GET", "/?label=%ff")).status == 400
        assert (await ask(port, "GET", "/?" + "label=a&" * 100)).status == 400


def test_every_error_has_its_status() -> None:
    known = {
        Invalid("a"): 400, Denied("a"): 403, Unauthenticated("a"): 401, NotFound("a"): 404, Conflict("a"): 409,
        LimitExceeded("a"): 413, Transient("a"): 503, Terminal("a"): 500, MethodNotAllowed("PUT", ["GET"]): 405,
    }  # fmt: skip
    assert {error: status_of(error) for error in known} == known


def test_refusals_say_how_to_authenticate_what_is_allowed_and_when_to_come_back() -> None:
    assert error_headers(Unauthenticated("a")) == [(b"www-authenticate", b'Bearer realm="falaj"')]
    assert error_headers(MethodNotAllowed("PUT", ["GET", "DELETE"])) == [(b"allow", b"DELETE, GET")]
    assert error_headers(Transient("a", retry_after_seconds=0.1)) == [(b"retry-after", b"1")]
    assert error_headers(Denied("a")) == []
    assert Unauthenticated("a").code == "Denied"
