"""Connections that send too much head, too slowly, or never stop sending, are ended; others are not."""

import asyncio

import pytest

from falaj.protocols import connection
from falaj.protocols.http import Call
from tests.protocols.serving import ask, exchange, read_answer, served


async def fine(scope, receive, send) -> None:
    call = Call(scope, receive, send, "r-1")
    await call.answer_json(200, {"length": len(await call.body(1 << 20))})


async def refused(scope, receive, send) -> None:
    await Call(scope, receive, send, "r-1").answer_json(413, {})


async def closed_within(reader: asyncio.StreamReader, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            while await reader.read(65536):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


async def test_a_head_that_never_ends_is_refused() -> None:
    async with served(fine) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nx-long: ")
        for _ in range(4):
            writer.write(b"x" * 8192)
            await asyncio.sleep(0.05)
        assert (await read_answer(reader)).status == 431
        assert await closed_within(reader, 5)
        writer.close()


async def test_ordinary_heads_with_large_bodies_pass() -> None:
    async with served(fine) as port:
        answer = await ask(port, "POST", "/", b"x" * 500_000, {"x-long": "y" * 20_000})
        assert answer.json() == {"length": 500_000}


async def test_several_requests_on_one_connection_pass() -> None:
    async with served(fine) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for length in (0, 100_000, 5):
            writer.write(f"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n".encode() + b"x" * length)
            assert (await asyncio.wait_for(read_answer(reader), 5)).json() == {"length": length}
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: a\r\n"])
async def test_a_head_that_does_not_come_in_time_closes_the_connection(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS_MAX", 0.3)
    async with served(fine) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await closed_within(reader, 5)
        writer.close()


async def test_a_slow_body_is_not_a_slow_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS_MAX", 0.3)
    async with served(fine) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab")
        await asyncio.sleep(0.6)
        writer.write(b"cd")
        assert (await asyncio.wait_for(read_answer(reader), 5)).json() == {"length": 4}
        writer.close()


async def test_a_refused_body_is_thrown_away_only_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DISCARD_BYTES_MAX", 1 << 20)
    async with served(refused) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n\r\n")
        assert (await read_answer(reader)).status == 413

        async def pour() -> None:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(pour(), 10)


async def test_a_refused_body_that_dribbles_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DISCARD_SECONDS_MAX", 0.3)
    async with served(refused) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n\r\n")
        assert (await read_answer(reader)).status == 413
        writer.write(b"x")
        assert await closed_within(reader, 5)
        writer.close()


async def test_what_is_not_http_is_answered_with_400() -> None:
    async with served(fine) as port:
        assert (await exchange(port, b"\x16\x03\x01 hello\r\n\r\n")).status == 400
