"""The OpenAI wire: models, chat completions (streamed or whole), embeddings. An agent is called as ``agent/NAME``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from time import perf_counter, time
from typing import Any, Final, Literal, cast
from uuid import uuid4

from falaj.errors import FalajError, Invalid, LimitExceeded, NotFound, Transient
from falaj.protocols.http import Call, MethodNotAllowed
from falaj.protocols.openai import translate, wire
from falaj.protocols.server import unknown_path
from falaj.region.resource import Key
from falaj.region.snapshot import Snapshot
from falaj.services.agents.answer import Answer, Answerer
from falaj.services.models.gateway import Gateway
from falaj.telemetry import Metrics

MODELS: Final = "/v1/models"
CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
_METHODS: Final = {MODELS: "GET", CHAT: "POST", EMBEDDINGS: "POST"}
_MODEL: Final = "/v1/models/{model}"

#: A replica's whole answer, or its refusal, is read into memory up to this size.
REPLY_BYTES_MAX: Final = 16 << 20


class OpenAI:
    """Serves ``/v1/…``."""

    def __init__(
        self, gateway: Gateway, answerer: Answerer, snapshot: Snapshot, metrics: Metrics, *, request_bytes_max: int
    ) -> None:
        self._gateway = gateway
        self._answerer = answerer
        self._snapshot = snapshot
        self._metrics = metrics
        self._request_bytes_max = request_bytes_max

    async def handle(self, call: Call) -> None:
        """Serve one call."""
        single = call.path.startswith(f"{MODELS}/")
        if not single and call.path not in _METHODS:
            raise unknown_path(call)
        call.route = _MODEL if single else call.path
        method = "GET" if single else _METHODS[call.path]
        if call.method != method:
            raise MethodNotAllowed(call.method, [method])
        if call.path == CHAT:
            await self._chat(call)
        elif call.path == EMBEDDINGS:
            await self._embeddings(call)
        elif single:
            await self._model(call, call.path.removeprefix(f"{MODELS}/"))
        else:
            await call.answer_json(200, translate.model_list(self._entries(call)))

    # --- models ----------------------------------------------------------------------------------------------------

    async def _model(self, call: Call, name: str) -> None:
        entries = self._entries(call)
        found = [entry for entry in entries if entry[0] == name]
        if not found:
            raise translate.model_not_found(name, [entry[0] for entry in entries])
        await call.answer_json(200, translate.model_list(found)["data"][0])

    def _entries(self, call: Call) -> list[tuple[str, str, int]]:
        """What the caller may name as ``model``: (name, owner, when it was declared)."""
        entries = []
        for served in self._gateway.models(call.principal):
            endpoint = self._snapshot.find(Key("Endpoint", served.project, served.endpoint))
            declared = endpoint.metadata.createdAt if endpoint else None
            entries.append((served.name, served.project, int(declared.timestamp()) if declared else 0))
        for agent in self._snapshot.list("Agent", call.principal.project):
            declared = agent.metadata.createdAt
            name = f"{wire.AGENT_PREFIX}{agent.metadata.name}"
            entries.append((name, agent.metadata.project, int(declared.timestamp()) if declared else 0))
        return entries

    def _not_found(self, call: Call, model: str) -> translate.ModelNotFound:
        return translate.model_not_found(model, [name for name, _, _ in self._entries(call)])

    # --- chat ------------------------------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        body = await call.json(self._request_bytes_max)
        model = body.get("model")
        agent = translate.agent_name(model) if isinstance(model, str) else None
        translate.check(body, wire.CHAT if agent is None else wire.AGENT, ("model", "messages"))
        body = {name: value for name, value in body.items() if value is not None}
        if body.get("stream_options") and not body.get("stream"):
            raise Invalid("'stream_options' is for streams", where="stream_options", hint="set 'stream' to true")
        if agent is None:
            await call.while_connected(self._relay(call, body))
        else:
            project = self._agent_project(call, agent)
            await call.while_connected(self._agent(call, body, project, agent))

    async def _relay(self, call: Call, body: dict[str, Any]) -> None:
        """Pass a request on to a replica, and its answer back."""
        model = body["model"]
        try:
            async with self._gateway.chat(call.principal, model, body) as reply:
                if body.get("stream"):
                    await self._relay_stream(call, model, reply.body)
                else:
                    content, usage = translate.completion(await _whole(reply.body), model)
                    self._count(model, usage)
                    await call.answer(200, content, b"application/json")
        except NotFound as error:
            raise self._not_found(call, model) from error
        except Invalid as error:
            raise translate.refused(error) from error

    async def _relay_stream(self, call: Call, model: str, pieces: AsyncIterator[bytes]) -> None:
        events = translate.Events(model)
        # The first event is awaited before the status is sent: until then an error can still be a proper HTTP error.
        relayed = _relayed(pieces, events)
        first = await anext(relayed)
        self._metrics.first_byte_seconds.labels(call.route).observe(perf_counter() - call.began)
        await call.stream(_ending_in_words(first, relayed, call.request_id), _farewell(call))
        self._count(model, events.usage)

    def _count(self, model: str, usage: dict[str, Any]) -> None:
        counted = translate.usage(usage)
        self._metrics.tokens.labels(model, "input").inc(counted["prompt_tokens"])
        self._metrics.tokens.labels(model, "output").inc(counted["completion_tokens"])

    # --- agents ----------------------------------------------------------------------------------------------------

    def _agent_project(self, call: Call, agent: str) -> str:
        """The project whose agent is meant: the key's, the header's, or the only one that has such an agent."""
        named = call.header(wire.PROJECT_HEADER)
        mine = call.principal.project
        if named and mine not in {None, named}:
            raise self._not_found(call, f"{wire.AGENT_PREFIX}{agent}")
        projects = [
            found.metadata.project
            for found in self._snapshot.list("Agent", mine or named or None)
            if found.metadata.name == agent
        ]
        if not projects:
            raise self._not_found(call, f"{wire.AGENT_PREFIX}{agent}")
        if len(projects) > 1:
            raise Invalid(
                f"{len(projects)} projects have an agent {agent!r}",
                where="model",
                hint="name the project in the header Falaj-Project",
            )
        return projects[0]

    async def _agent(self, call: Call, body: dict[str, Any], project: str, agent: str) -> None:
        question = translate.question(body["messages"])
        head = (body["model"], f"chatcmpl-{uuid4().hex}", int(time()))
        if not body.get("stream"):
            answer = await self._answerer.ask(call.principal, project, agent, question)
            self._count(body["model"], answer.usage.as_dict())
            await call.answer_json(200, translate.answer_completion(answer, *head))
            return
        with_usage = bool(body.get("stream_options", {}).get("include_usage"))
        # A generator, whatever its annotation says: it must be closed here, so that what it asked for ends with it.
        asked = cast(
            AsyncGenerator[str | Answer, None], self._answerer.stream(call.principal, project, agent, question)
        )
        async with aclosing(asked) as pieces, aclosing(self._agent_events(pieces, head, with_usage)) as events:
            first = await anext(events)
            self._metrics.first_byte_seconds.labels(call.route).observe(perf_counter() - call.began)
            await call.stream(_ending_in_words(first, events, call.request_id), _farewell(call))

    async def _agent_events(
        self, pieces: AsyncIterator[str | Answer], head: tuple[str, str, int], with_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """Text as it comes; then a last chunk that carries the extension; then usage, when it was asked for."""
        answer: Answer | None = None
        began = False
        async for piece in pieces:
            if isinstance(piece, Answer):
                answer = piece
                continue
            delta = {"content": piece} if began else {"role": "assistant", "content": piece}
            began = True
            yield translate.chunk(*head, delta)
        if answer is None:
            raise Transient("the agent ended without an answer", where=head[0], hint="try again")
        self._count(head[0], answer.usage.as_dict())
        delta = {} if began else {"role": "assistant", "content": answer.answer}
        yield translate.chunk(*head, delta, "stop", falaj=translate.answer_extension(answer))
        if with_usage:
            yield translate.chunk(*head, None, usage=answer.usage.as_dict())
        yield translate.DONE

    # --- embeddings ------------------------------------------------------------------------------------------------

    async def _embeddings(self, call: Call) -> None:
        body = await call.json(self._request_bytes_max)
        translate.check(body, wire.EMBEDDINGS, ("model", "input"))
        given = body["input"]
        texts = given if isinstance(given, list) else [given]
        await call.while_connected(self._embed(call, body, texts))

    async def _embed(self, call: Call, body: dict[str, Any], texts: list[str]) -> None:
        model = body["model"]
        input_type: Literal["query", "passage"] = body.get("input_type") or "query"
        try:
            embedded = await self._gateway.embed(call.principal.project or "", model, texts, input_type=input_type)
        except NotFound as error:
            raise self._not_found(call, model) from error
        dimensions = len(embedded.vectors[0])
        if body.get("dimensions") not in {None, dimensions}:
            raise Invalid(
                f"{model!r} has {dimensions} dimensions and no other", where="dimensions", hint="leave it out"
            )
        self._metrics.tokens.labels(model, "input").inc(embedded.tokens)
        encoding = body.get("encoding_format") or "float"
        await call.answer_json(
            200, translate.embeddings(embedded.vectors, model, embedded.tokens, encoding_format=encoding)
        )


def _farewell(call: Call) -> bytes:
    error = Transient("the gateway is stopping; the answer is not complete", hint="ask again")
    return translate.error_event(error, call.request_id)


async def _whole(pieces: AsyncIterator[bytes]) -> bytes:
    content = bytearray()
    async for piece in pieces:
        content += piece
        if len(content) > REPLY_BYTES_MAX:
            raise LimitExceeded(f"the replica's answer is larger than {REPLY_BYTES_MAX:,} bytes", where="replica")
    return bytes(content)


async def _relayed(pieces: AsyncIterator[bytes], events: translate.Events) -> AsyncIterator[bytes]:
    async for piece in pieces:
        for event in events.feed(piece):
            yield event
    if not events.done:
        raise Transient("the replica broke off before the answer was complete", where="replica", hint="ask again")


async def _ending_in_words(first: bytes, events: AsyncIterator[bytes], request_id: str) -> AsyncIterator[bytes]:
    """The stream; an error in the middle of it becomes its last event, because the status is already on the wire."""
    yield first
    try:
        async for event in events:
            yield event
    except FalajError as error:
        yield translate.error_event(error, request_id)
