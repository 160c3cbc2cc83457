"""The OpenAI wire's requests: which parameters are served, and what each may be.

Every parameter is checked by one small function instead of a Pydantic model: this is the hot path, and the body goes on
to the replica as it came. A parameter that is not here is refused by name: nothing that a client asks for is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

#: Tells what a value should have been, or the empty string when it is right.
Check = Callable[[Any], str]

MESSAGES_MAX: Final = 2048
PARTS_MAX: Final = 256
TOOLS_MAX: Final = 128
STOPS_MAX: Final = 8
INPUTS_MAX: Final = 512

AGENT_PREFIX: Final = "agent/"
PROJECT_HEADER: Final = b"falaj-project"


def number(low: float, high: float) -> Check:
    """A number from ``low`` to ``high``."""

    def check(value: Any) -> str:
        right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return "" if right and low <= value <= high else f"a number from {low:g} to {high:g}"

    return check


def whole(low: int, high: int) -> Check:
    """A whole number from ``low`` to ``high``."""

    def check(value: Any) -> str:
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if right else f"a whole number from {low} to {high}"

    return check


def text(characters_max: int) -> Check:
    """A string."""

    def check(value: Any) -> str:
        right = isinstance(value, str) and len(value) <= characters_max
        return "" if right else f"a string of at most {characters_max} characters"

    return check


def one_of(*values: object) -> Check:
    """One of a few values."""

    def check(value: Any) -> str:
        # `1 == True` in Python; the wire knows the difference.
        right = any(type(value) is type(known) and value == known for known in values)
        return "" if right else "one of " + ", ".join(repr(known) for known in values)

    return check


def boolean(value: Any) -> str:
    """True or false."""
    return "" if isinstance(value, bool) else "true or false"


def mapping(value: Any) -> str:
    """A JSON object."""
    return "" if isinstance(value, dict) else "an object"


def stops(value: Any) -> str:
    """A string, or a few strings."""
    given = value if isinstance(value, list) else [value]
    right = 1 <= len(given) <= STOPS_MAX and all(isinstance(stop, str) and 0 < len(stop) <= 256 for stop in given)
    return "" if right else f"a string, or 1 to {STOPS_MAX} strings, of at most 256 characters"


def stream_options(value: Any) -> str:
    """Only ``include_usage`` is served."""
    right = isinstance(value, dict) and set(value) <= {"include_usage"}
    right = right and all(isinstance(item, bool) for item in value.values())
    return "" if right else 'an object that holds nothing but "include_usage": true or false'


def tools(value: Any) -> str:
    """Function tools."""
    right = isinstance(value, list) and 1 <= len(value) <= TOOLS_MAX
    right = right and all(
        isinstance(tool, dict)
        and tool.get("type") == "function"
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
        for tool in value
    )
    return "" if right else f"1 to {TOOLS_MAX} tools of type 'function', each with a name"


def tool_choice(value: Any) -> str:
    """A word, or the function to call."""
    return "" if value in ("none", "auto", "required") or isinstance(value, dict) else "'none', 'auto', 'required'"


def response_format(value: Any) -> str:
    """Text, JSON, or JSON after a schema."""
    kinds = ("text", "json_object", "json_schema")
    right = isinstance(value, dict) and value.get("type") in kinds
    return "" if right else f"an object whose 'type' is one of {', '.join(kinds)}"


def messages(value: Any) -> str:
    """A conversation: each message has a role, and content of text or text parts."""
    if not isinstance(value, list) or not 1 <= len(value) <= MESSAGES_MAX:
        return f"1 to {MESSAGES_MAX} messages"
    for position, message in enumerate(value):
        if wrong := _message(message):
            return f"messages; number {position} {wrong}"
    return ""


def _message(message: Any) -> str:
    roles = ("system", "developer", "user", "assistant", "tool")
    if not isinstance(message, dict) or message.get("role") not in roles:
        return f"has no 'role' of {', '.join(roles)}"
    content = message.get("content")
    if content is None:
        return "" if message["role"] == "assistant" and message.get("tool_calls") else "has no 'content'"
    if isinstance(content, str):
        return ""
    if not isinstance(content, list) or not 1 <= len(content) <= PARTS_MAX:
        return f"has content that is neither a string nor 1 to {PARTS_MAX} parts"
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            kind = part.get("type") if isinstance(part, dict) else None
            return f"has a part of type {kind!r:.40}; only text parts are served"
    return ""


def embedding_input(value: Any) -> str:
    """A string or strings; tokens of another tokenizer would mean nothing to the model."""
    given = value if isinstance(value, list) else [value]
    if any(isinstance(item, int | list) for item in given):
        return "a string or strings (token arrays are not served)"
    right = 1 <= len(given) <= INPUTS_MAX and all(isinstance(item, str) and item for item in given)
    return "" if right else f"a string, or 1 to {INPUTS_MAX} strings, none of them empty"


CHAT: Final[Mapping[str, Check]] = {
    "model": text(200),
    "messages": messages,
    "stream": boolean,
    "stream_options": stream_options,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "max_tokens": whole(1, 1_000_000),
    "max_completion_tokens": whole(1, 1_000_000),
    "n": one_of(1),
    "stop": stops,
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "logit_bias": mapping,
    "logprobs": boolean,
    "top_logprobs": whole(0, 20),
    "seed": whole(-(2**63), 2**63 - 1),
    "response_format": response_format,
    "tools": tools,
    "tool_choice": tool_choice,
    "parallel_tool_calls": boolean,
    "user": text(512),
    "store": one_of(False),
}

#: What means something when an agent answers: its own instructions and limits decide the rest.
AGENT: Final[Mapping[str, Check]] = {
    name: CHAT[name] for name in ("model", "messages", "stream", "stream_options", "n", "user", "store")
}

EMBEDDINGS: Final[Mapping[str, Check]] = {
    "model": text(200),
    "input": embedding_input,
    "encoding_format": one_of("float", "base64"),
    "dimensions": whole(1, 65_536),
    "input_type": one_of("query", "passage"),
    "user": text(512),
}
"""``input_type`` is Falaj's: e5 and its kin embed questions and passages differently. A client that does not know of
it compares texts with each other, for which the authors of e5 say to embed both as ``query``: that is the default."""
