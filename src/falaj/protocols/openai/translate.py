"""OpenAI wire in, domain out, and back. Pure: nothing here waits or knows a service."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from falaj.errors import Conflict, Denied, FalajError, Invalid, LimitExceeded, NotFound, Terminal, Transient, nearest
from falaj.protocols.http import Unauthenticated
from falaj.protocols.openai.wire import AGENT_PREFIX, Check
from falaj.services.agents.answer import Answer

#: One event of a stream may not grow beyond this before it ends.
EVENT_BYTES_MAX: Final = 4 << 20
DONE: Final = b"data: [DONE]\n\n"

_TYPES: Final[dict[type[FalajError], str]] = {
    Invalid: "invalid_request_error",
    Denied: "permission_error",
    NotFound: "invalid_request_error",
    Conflict: "invalid_request_error",
    LimitExceeded: "invalid_request_error",
    Transient: "service_unavailable_error",
    Terminal: "server_error",
}
_CODES: Final[dict[type[FalajError], str]] = {
    Invalid: "invalid_value",
    Denied: "permission_denied",
    NotFound: "not_found",
    Conflict: "conflict",
    LimitExceeded: "limit_exceeded",
    Transient: "service_unavailable",
    Terminal: "server_error",
}


class ModelNotFound(NotFound):
    """No endpoint or agent that the caller may use is called so."""


class ContextLengthExceeded(Invalid):
    """The conversation and the answer asked for do not fit the model's context."""


def failure(error: FalajError, request_id: str = "") -> dict[str, Any]:
    """An error in the shape of OpenAI's API; ``falaj`` carries the fields that the shape has no room for."""
    kind = next((known for known in _TYPES if isinstance(error, known)), None)
    fields = {
        "message": str(FalajError(error.message, hint=error.hint)),
        "type": _TYPES[kind] if kind else "server_error",
        "param": (error.where or None) if isinstance(error, Invalid | LimitExceeded) else None,
        "code": _CODES[kind] if kind else "server_error",
        "request_id": request_id or None,
    }
    match error:
        case Unauthenticated():
            fields |= {"type": "authentication_error", "code": "invalid_api_key"}
        case ModelNotFound():
            fields |= {"param": "model", "code": "model_not_found"}
        case ContextLengthExceeded():
            fields |= {"param": "messages", "code": "context_length_exceeded"}
    return {"error": fields}


def check(body: Mapping[str, Any], known: Mapping[str, Check], required: Sequence[str]) -> None:
    """Check a request's parameters. A parameter that is null was not given.

    Raises:
        Invalid: one is missing, unsupported or wrong; ``where`` names it.
    """
    for name in required:
        if body.get(name) is None:
            raise Invalid(f"the parameter {name!r} is missing", where=name)
    for name, value in body.items():
        if value is None:
            continue
        rule = known.get(name)
        if rule is None:
            hint = nearest(name, known) or "leave it out"
            raise Invalid(f"the parameter {name[:80]!r} is not supported here", where=name[:80], hint=hint)
        if wanted := rule(value):
            raise Invalid(f"the parameter {name!r} must be {wanted}", where=name)


def model_not_found(model: str, known: Sequence[str]) -> ModelNotFound:
    """The error for a name that the caller may not use, with the nearest that it may."""
    return ModelNotFound(f"there is no model {model[:200]!r}", hint=nearest(model, known) or "see GET /v1/models")


def question(messages: Sequence[Mapping[str, Any]]) -> str:
    """What an agent is asked: the text of the last message of the user.

    Raises:
        Invalid: there is none.
    """
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
            if text.strip():
                return str(text)
            break
    raise Invalid("the last message of the user is the question, and there is none", where="messages")


def agent_name(model: str) -> str | None:
    """The agent that a model's name means, or None when it means an endpoint."""
    return model[len(AGENT_PREFIX) :] if model.startswith(AGENT_PREFIX) else None


# --- answers ---------------------------------------------------------------------------------------------------------


def model_list(entries: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """``GET /v1/models`` from (name, owner, seconds since the epoch)."""
    data = [{"id": name, "object": "model", "created": created, "owned_by": owner} for name, owner, created in entries]
    return {"object": "list", "data": data}


def refused(error: Invalid) -> Invalid:
    """A replica's refusal of what was checked here before: a prompt past the context has a code of its own."""
    if error.where == "messages":
        return ContextLengthExceeded(error.message, where=error.where, hint=error.hint)
    return error


def completion(content: bytes, model: str) -> tuple[bytes, dict[str, Any]]:
    """A replica's whole answer under the name that the client asked for, and its usage.

    Raises:
        Transient: it is not a completion.
    """
    try:
        fields = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Transient("the replica's answer is not JSON", where="replica", hint="try again") from error
    if not isinstance(fields, dict) or "choices" not in fields:
        raise Transient("the replica's answer is not a completion", where="replica", hint="try again")
    fields["model"] = model
    return orjson.dumps(fields), fields.get("usage") or {}


def error_event(error: FalajError, request_id: str) -> bytes:
    """An error inside of a stream; clients of OpenAI's raise it."""
    return b"data: " + orjson.dumps(failure(error, request_id)) + b"\n\n"


class Events:
    """The events of a replica's stream, cut out of pieces that begin and end anywhere."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._rest = bytearray()
        self.usage: dict[str, Any] = {}
        self.done = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The events that ``piece`` completes, under the name that the client asked for.

        Raises:
            Transient: the replica reports an error, or an event that never ends.
        """
        self._rest += piece.replace(b"\r\n", b"\n")
        while (end := self._rest.find(b"\n\n")) >= 0:
            event = bytes(self._rest[:end])
            del self._rest[: end + 2]
            if renamed := self._event(event):
                yield renamed
        if len(self._rest) > EVENT_BYTES_MAX:
            raise Transient("the replica sent an event without an end", where="replica")

    def _event(self, event: bytes) -> bytes:
        data = event.removeprefix(b"data:").removeprefix(b"error:").strip()
        if data == b"[DONE]":
            self.done = True
            return DONE
        if not event.startswith((b"data:", b"error:")):
            return b""
        try:
            fields = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise Transient("the replica sent an event that is not JSON", where="replica") from error
        if "choices" not in fields:
            inner = fields.get("error", fields)
            message = inner.get("message") if isinstance(inner, dict) else inner
            raise Transient(f"the replica failed: {str(message)[:500]}", where="replica", hint="ask again")
        fields["model"] = self._model
        self.usage = fields.get("usage") or _timed(fields) or self.usage
        return b"data: " + orjson.dumps(fields) + b"\n\n"


def _timed(fields: Mapping[str, Any]) -> dict[str, int]:
    """The usage by llama.cpp's own count, which ends every stream, also one whose client did not ask for usage."""
    timings = fields.get("timings")
    if not isinstance(timings, dict):
        return {}
    read = int(timings.get("cache_n", 0)) + int(timings.get("prompt_n", 0))
    return {"prompt_tokens": read, "completion_tokens": int(timings.get("predicted_n", 0))}


def embeddings(vectors: Sequence[Sequence[float]], model: str, tokens: int, *, encoding_format: str) -> dict[str, Any]:
    """``POST /v1/embeddings``; base64 is of little-endian 32-bit floats, as OpenAI's clients expect."""

    def encoded(vector: Sequence[float]) -> object:
        if encoding_format == "base64":
            return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
        return list(vector)

    data = [
        {"object": "embedding", "index": index, "embedding": encoded(vector)} for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def answer_extension(answer: Answer) -> dict[str, Any]:
    """What an agent's answer carries beyond its text."""
    fields = answer.as_dict()
    return {name: fields[name] for name in ("citations", "refused", "model", "site", "seconds")}


def answer_completion(answer: Answer, model: str, identifier: str, created: int) -> dict[str, Any]:
    """An agent's answer as a completion."""
    message = {"role": "assistant", "content": answer.answer, "refusal": None}
    return {
        "id": identifier,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": answer.usage.as_dict(),
        "falaj": answer_extension(answer),
    }


def chunk(
    model: str, identifier: str, created: int, delta: Mapping[str, Any] | None, finish: str | None = None, **more: Any
) -> bytes:
    """One event of an agent's stream; without a delta it has no choices (the usage event)."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
    fields = {
        "id": identifier,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": choices,
        **more,
    }
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def usage(given: Mapping[str, Any]) -> dict[str, int]:
    """Token counts under OpenAI's names."""
    prompt, answer = int(given.get("prompt_tokens", 0)), int(given.get("completion_tokens", 0))
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
