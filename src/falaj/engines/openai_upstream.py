"""Calls model replicas, or any other server of the OpenAI wire, through one pool of connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Literal

import aiohttp
import orjson

from falaj.engines.interface import Reply, Vectors
from falaj.errors import FalajError, Invalid, Terminal, Transient

#: A replica is on this machine: it accepts at once, or its process is away.
CONNECT_TIMEOUT_SECONDS = 3.0
#: Shorter than what servers keep an idle connection for (llama.cpp: 5 s), so that a request rarely meets a closed one.
KEEPALIVE_SECONDS = 3.0
ERROR_BYTES_MAX = 64 << 10


class OpenAIUpstream:
    """The ``Inference`` over HTTP.

    Args:
        key: the secret that the upstream asks for (``replica_key``); empty for none.
        timeout_seconds: a whole answer takes at most so long, its streaming included.
    """

    def __init__(self, key: str = "", *, timeout_seconds: float = 900.0) -> None:
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=CONNECT_TIMEOUT_SECONDS)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection; the next call opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def post(self, url: str, path: str, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send ``body`` to ``url + path``. Leaving the context early closes the connection, which ends the generation.

        Raises:
            Transient: the replica cannot be reached, is loading or busy, or broke off (then while the body is read).
            Invalid: the upstream refuses the request, such as a prompt past the context.
        """
        return self._post(url, path, body)

    async def embed(self, url: str, texts: Sequence[str], *, input_type: Literal["query", "passage"]) -> Vectors:
        """One vector of unit length for each text, in order.

        Raises:
            Transient: the replica cannot be reached. Invalid: a text is too long for the model.
        """
        body = orjson.dumps({"input": list(texts), "input_type": input_type, "encoding_format": "float"})
        async with self._post(url, "/v1/embeddings", body) as reply:
            answer = orjson.loads(b"".join([part async for part in reply.body]))
        return Vectors([item["embedding"] for item in answer["data"]], answer["usage"]["prompt_tokens"])

    @asynccontextmanager
    async def _post(self, url: str, path: str, body: bytes) -> AsyncIterator[Reply]:
        response = await self._send(url, path, body)
        try:
            if response.status >= 400:
                with _translated(url):
                    raise _refusal(response.status, await response.content.read(ERROR_BYTES_MAX), url)
            yield Reply(response.status, response.headers.get("Content-Type", ""), _body(response, url))
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _send(self, url: str, path: str, body: bytes) -> aiohttp.ClientResponse:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=1024, keepalive_timeout=KEEPALIVE_SECONDS)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        with _translated(url):
            try:
                return await self._session.post(url + path, data=body, allow_redirects=False)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientConnectionResetError):
                # Most likely a pooled connection that the server had closed, before it saw the request: ask once more.
                return await self._session.post(url + path, data=body, allow_redirects=False)


async def _body(response: aiohttp.ClientResponse, url: str) -> AsyncIterator[bytes]:
    with _translated(url):
        async for part in response.content.iter_any():
            yield part


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn the client's errors into Falaj's, once."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise Transient(
            "the model replica does not accept connections",
            where=url,
            hint="it is starting or was restarted; see `falaj describe endpoint`",
        ) from error
    except TimeoutError as error:
        raise Transient("the model replica did not answer in time", where=url) from error
    except aiohttp.ClientError as error:
        raise Transient(
            f"the model replica broke off: {error or type(error).__name__}",
            where=url,
            hint="its process may have ended; see `falaj logs`",
        ) from error


def _refusal(status: int, content: bytes, url: str) -> FalajError:
    """The upstream's refusal in Falaj's words."""
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        answer = {}
    found = answer.get("error") if isinstance(answer, dict) else None
    error: dict[str, Any] = found if isinstance(found, dict) else {}
    message = str(error.get("message") or content[:500].decode(errors="replace") or f"HTTP status {status}")
    if error.get("type") == "exceed_context_size_error":
        return Invalid(
            f"the prompt has {error.get('n_prompt_tokens')} tokens; the model's context holds {error.get('n_ctx')}",
            where="messages",
            hint="shorten the prompt, or raise context_tokens_max of the endpoint",
        )
    if status in {401, 403}:
        return Terminal(
            "the model replica refuses the region's key",
            where=url,
            hint="restart the region: its processes hold different keys",
        )
    if status in {408, 429} or status >= 500:
        return Transient(f"the model replica cannot answer now: {message}", where=url, retry_after_seconds=2.0)
    return Invalid(message)
