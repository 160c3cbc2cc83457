"""Reads manifests: YAML or JSON, several documents, under limits that hold before anything large is built.

Only the parser of PyYAML is used, event by event, so that depth, count and duplicate keys are checked while reading and
a hostile file costs no more than its size. Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/,
section 10.3): ``NO`` and ``on`` are text. Numbers may be written with Arabic-Indic digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from falaj.errors import FalajError, Invalid, LimitExceeded
from falaj.region.resource import Manifest

SIZE_BYTES_MAX = 1 << 20
DOCUMENTS_MAX = 2000
DEPTH_MAX = 32
NODES_MAX = 200_000

_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it was built in: ten times as fast

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
#: Arabic-Indic and extended Arabic-Indic digits, and the Arabic decimal separator, as ASCII.
_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹٫", "01234567890123456789.")
#: JSON writes what is beyond 16 bits as two escapes, YAML as one long escape.
_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
#: The tags that say no more than what the core schema reads anyway.
_PLAIN_TAGS = {None, "!"}
_TEXT_TAG = "tag:yaml.org,2002:str"


class Located(dict[str, Any]):
    """A manifest that knows where it was written, for errors: ``where`` is like ``agents.yaml:14``."""

    where: str

    def __init__(self, content: dict[str, Any], where: str) -> None:
        super().__init__(content)
        self.where = where


def parse(text: str | bytes, *, where: str, size_bytes_max: int = SIZE_BYTES_MAX) -> list[Manifest]:
    """The manifests in ``text``; each is a mapping that also has ``where`` (see ``Located``).

    Args:
        text: YAML or JSON, as text or UTF-8.
        where: what the text is called in errors, for example its file's name.
        size_bytes_max: the largest text.

    Raises:
        Invalid: not YAML, an alias, a tag, a duplicate key, not a mapping, or nothing; with line and column.
        LimitExceeded: larger, deeper or more than is allowed.
    """
    content = text.encode() if isinstance(text, str) else text
    if len(content) > size_bytes_max:
        raise LimitExceeded(
            f"the manifests are {len(content):,} bytes; at most {size_bytes_max:,} are taken at once",
            where=where,
            hint="apply them in several parts",
        )
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"byte {error.start} is not UTF-8", where=where, hint="save the file as UTF-8") from error
    if decoded.lstrip().startswith("{"):
        decoded = _PAIR.sub(_joined, decoded)
    try:
        manifests = list(_Reader(_Parser(decoded), where).documents())
    except yaml.YAMLError as error:
        raise _syntax_error(error, where) from error
    if not manifests:
        raise Invalid("there is no manifest in it", where=where, hint="write at least apiVersion, kind, metadata")
    return manifests


def _joined(pair: re.Match[str]) -> str:
    high, low = int(pair[1], 16), int(pair[2], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08X}"


def _syntax_error(error: yaml.YAMLError, where: str) -> Invalid:
    mark = getattr(error, "problem_mark", None)
    place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    return Invalid(f"not valid YAML: {problem}", where=where + place, hint="check indentation, quotes and brackets")


class _Reader:
    """Builds plain values from parser events, within the limits."""

    def __init__(self, parser: Any, where: str) -> None:
        self._parser = parser
        self._where = where
        self._nodes = 0

    def documents(self) -> Iterator[Manifest]:
        """The documents that are mappings; empty ones are passed over."""
        count = 0
        while self._parser.check_event():
            event = self._parser.get_event()
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            count += 1
            if count > DOCUMENTS_MAX:
                raise self._error(LimitExceeded, event, f"more than {DOCUMENTS_MAX:,} documents")
            first = self._parser.get_event()
            value = self._value(first, depth=1)
            if value is None:
                continue
            if not isinstance(value, dict):
                raise self._error(Invalid, first, f"a manifest is a mapping, this is {_called(value)}")
            yield Located(value, self._place(first).rpartition(":")[0])

    def _error(self, kind: type[FalajError], event: yaml.Event, message: str, hint: str = "") -> FalajError:
        return kind(message, where=self._place(event), hint=hint)

    def _place(self, event: yaml.Event) -> str:
        mark: Any = event.start_mark  # the stubs say that it may be missing; the parser always sets it
        return f"{self._where}:{mark.line + 1}:{mark.column + 1}"

    def _value(self, event: Any, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise self._error(LimitExceeded, event, f"more than {NODES_MAX:,} values")
        if depth > DEPTH_MAX:
            raise self._error(LimitExceeded, event, f"nested more than {DEPTH_MAX} deep")
        if isinstance(event, yaml.AliasEvent):
            raise self._error(Invalid, event, f"aliases (*{event.anchor}) are not taken", "write the value out")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if event.tag not in _PLAIN_TAGS:
            raise self._error(Invalid, event, f"the tag {event.tag!r} is not taken", "remove it")
        return self._mapping(depth) if isinstance(event, yaml.MappingStartEvent) else self._sequence(depth)

    def _sequence(self, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := self._parser.get_event(), yaml.SequenceEndEvent):
            values.append(self._value(event, depth + 1))
        return values

    def _mapping(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := self._parser.get_event(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(Invalid, event, "a key must be text")
            if event.value in values:
                raise self._error(Invalid, event, f"the key {event.value!r} is written twice", "keep one of them")
            values[event.value] = self._value(self._parser.get_event(), depth + 1)
        return values

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text: str = event.value
        if event.tag == _TEXT_TAG or (event.tag in _PLAIN_TAGS and not event.implicit[0]):
            return text
        if event.tag not in _PLAIN_TAGS:
            raise self._error(Invalid, event, f"the tag {event.tag!r} is not taken", "remove it")
        if text in _WORDS:
            return _WORDS[text]
        number = text.translate(_DIGITS)
        if len(number) <= 40 and _INTEGER.fullmatch(number):
            return int(number)
        if len(number) <= 40 and _FLOAT.fullmatch(number):
            return float(number)
        return text


def _called(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"a single value ({str(value)[:40]!r})"
