"""REST wire in, domain out, and back. Pure: nothing here waits, reads a clock or knows a service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from falaj.errors import FalajError, Invalid, NotFound, nearest
from falaj.region.manifest import Located
from falaj.region.resource import API_VERSION, Key, Kind, KindTable, Manifest, Resource, Scope, check_name
from falaj.services.models.kinds import ModelSpec
from falaj.trust.identity import Principal

LIMIT_DEFAULT: Final = 200
LIMIT_MAX: Final = 1000
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}(; ?[\w.+-]{1,32}=[\w.+-]{1,64})?", re.ASCII)

Model = TypeVar("Model", bound=BaseModel)
Query = dict[str, list[str]]


def failure(error: FalajError, request_id: str) -> dict[str, Any]:
    """An error in the shape of this wire; the request id is in the header."""
    del request_id
    return {"error": error.as_dict()}


def body(model: type[Model], content: dict[str, Any]) -> Model:
    """The body as ``model``.

    Raises:
        Invalid: a field is missing, unknown or wrong; ``where`` names it.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        hint = ""
        if first["type"] == "extra_forbidden":
            hint = nearest(str(first["loc"][-1]), model.model_fields)
        raise Invalid(first["msg"], where=where, hint=hint or "see /openapi.json") from error


def single(query: Query, name: str) -> str:
    """The parameter's one value, or the empty string.

    Raises:
        Invalid: it was given more than once.
    """
    values = query.get(name, [""])
    if len(values) > 1:
        raise Invalid(f"the query parameter {name!r} was given {len(values)} times", where=name, hint="give it once")
    return values[0]


def number(query: Query, name: str, default: int, maximum: int, *, minimum: int = 0) -> int:
    """The parameter as a whole number; Arabic-Indic digits count too.

    Raises:
        Invalid: it is not a number from ``minimum`` to ``maximum``.
    """
    text = single(query, name)
    if not text:
        return default
    if not text.isdecimal() or len(text) > 18 or not minimum <= int(text) <= maximum:
        raise Invalid(f"{text[:40]!r} is not a number from {minimum} to {maximum}", where=name)
    return int(text)


def flag(query: Query, name: str) -> bool:
    """The parameter as true or false; false when it is not given.

    Raises:
        Invalid: it is neither.
    """
    text = single(query, name).lower()
    if text not in {"", "0", "1", "true", "false"}:
        raise Invalid(f"{text[:40]!r} is neither true nor false", where=name)
    return text in {"1", "true"}


def labels(query: Query) -> dict[str, str]:
    """Every ``label=key=value``.

    Raises:
        Invalid: one has no ``=``.
    """
    wanted = {}
    for text in query.get("label", []):
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise Invalid(f"{text[:80]!r} is not a label", where="label", hint="write label=KEY=VALUE")
        wanted[key] = value
    return wanted


def after(query: Query) -> tuple[str, str]:
    """Where the page before ended: what ``next_page`` wrote.

    Raises:
        Invalid: it is something else.
    """
    text = single(query, "after")
    project, separator, name = text.partition("/")
    if text and not separator:
        raise Invalid(f"{text[:80]!r} is not the 'next' of a listing", where="after")
    return project, name


def page(resources: Sequence[Resource], limit: int) -> dict[str, Any]:
    """A listing; ``next`` is empty when there is nothing more."""
    last = resources[-1].metadata if resources and len(resources) == limit else None
    return {
        "items": [resource.as_dict() for resource in resources],
        "next": f"{last.project}/{last.name}" if last else "",
    }


def manifest(given: Sequence[Manifest], kind: Kind, project: str, name: str | None) -> Manifest:
    """The one manifest of a body; what the path says may be left out of it, but not contradicted.

    Raises:
        Invalid: there is not exactly one manifest, or it names something else than the path does.
    """
    if len(given) != 1:
        raise Invalid(f"the body holds {len(given)} manifests", where="body", hint="send one, or use /falaj/v1/apply")
    content = dict(given[0])
    metadata = content.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise Invalid("metadata is not a mapping", where="metadata")
    metadata = dict(metadata)
    _agree(content, "apiVersion", API_VERSION, "apiVersion")
    _agree(content, "kind", kind.name, "kind")
    if kind.scope is Scope.PROJECT:
        _agree(metadata, "project", project, "metadata.project")
    if name is not None:
        _agree(metadata, "name", name, "metadata.name")
    content["metadata"] = metadata
    return Located(content, getattr(given[0], "where", "body"))


def _agree(fields: dict[str, Any], name: str, value: str, where: str) -> None:
    if fields.setdefault(name, value) != value:
        raise Invalid(f"the body says {fields[name]!r} where the path says {value!r}", where=where)


def key(kind: Kind, names: dict[str, str]) -> Key:
    """The key that a path names.

    Raises:
        Invalid: a part of it is not a name.
    """
    project = check_name(names["project"], where="project") if kind.scope is Scope.PROJECT else ""
    return Key(kind.name, project, check_name(names["name"], where="name", dotted=kind.dotted))


def own_project(principal: Principal, project: str) -> str:
    """``project``, when the caller may know of it.

    Raises:
        NotFound: the caller's key belongs to another project; whether this one exists is not said.
        Invalid: it is not a name.
    """
    check_name(project, where="project")
    if principal.project not in {None, project}:
        raise NotFound(f"there is no project {project!r}", hint=f"this key belongs to {principal.project!r}")
    return project


def event_key(query: Query, kinds: KindTable, project: str | None) -> Key | None:
    """The resource whose events are asked for, or None for all of them.

    Raises:
        Invalid: only one of ``kind`` and ``name`` is given, or the project that the kind needs is missing.
    """
    word, name = single(query, "kind"), single(query, "name")
    if not word and not name:
        return None
    if not (word and name):
        raise Invalid("'kind' and 'name' go together", where="kind" if name else "name", hint="give both or neither")
    found = kinds.get(word)
    if found.scope is Scope.PROJECT and project is None:
        raise Invalid(f"{found.name} {name!r} belongs to a project", where="project", hint="give 'project' too")
    return key(found, {"project": project or "", "name": name})


def content_type(text: str) -> str:
    """The media type that a client gave its object, when it is one."""
    return text if _MEDIA_TYPE.fullmatch(text) else "application/octet-stream"


def catalogue(name: str, spec: ModelSpec, *, pulled: bool) -> dict[str, Any]:
    """An entry of the model catalogue."""
    return {
        "name": name,
        "task": spec.task,
        "size_bytes": spec.size_bytes,
        "licence": spec.licence,
        "languages": spec.languages,
        "context_tokens_max": spec.context_tokens_max,
        "pulled": pulled,
    }


def key_name(key: Key) -> dict[str, str]:
    """A resource's full name as fields."""
    return {"kind": key.kind, "project": key.project, "name": key.name}


def kind(kind: Kind) -> dict[str, Any]:
    """A row of the kind table."""
    return {
        "name": kind.name,
        "plural": kind.plural,
        "scope": kind.scope.value,
        "short": list(kind.short),
        "room": kind.room,
    }
