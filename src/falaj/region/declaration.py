"""From a manifest, as a person wrote it, to a checked declaration; every problem says where it is and what to write.

Pure: nothing here knows what exists. Admission compares the result with the store.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from falaj.errors import FalajError, Invalid, nearest
from falaj.region.resource import API_VERSION, NAME_RULE, Key, Kind, KindTable, Manifest, Metadata, Scope, SpecModel

_ENVELOPE = ("apiVersion", "kind", "metadata", "spec", "status")
PROBLEMS_MAX = 10


@dataclass(frozen=True, slots=True)
class Declaration:
    """A manifest that is right by itself.

    ``generation`` and ``uid`` are what the writer had read, 0 and empty when they do not care; ``where`` is the place
    of the manifest, for further errors.
    """

    key: Key
    kind: Kind
    labels: dict[str, str]
    spec: SpecModel
    references: tuple[Key, ...]
    generation: int
    uid: str
    where: str


@dataclass(frozen=True, slots=True)
class _Problem:
    field: str
    message: str
    hint: str = ""


def declare(manifest: Manifest, kinds: KindTable, *, project: str | None = None, nth: int = 1) -> Declaration:
    """Check a manifest and fill in defaults.

    Args:
        manifest: the mapping; ``where`` of ``manifest.Located`` is used in errors.
        kinds: the kinds there are.
        project: the project of manifests that name none (that of a project's key).
        nth: the manifest's position, counted from 1, for errors when it does not know its place.

    Raises:
        Invalid: with everything that is wrong with it, not only the first thing.
    """
    where = getattr(manifest, "where", f"document {nth}")
    kind = _kind(manifest, kinds, where)
    problems = [
        _Problem(str(name), "is not a part of a manifest", nearest(str(name), _ENVELOPE))
        for name in manifest
        if name not in _ENVELOPE
    ]
    if manifest.get("apiVersion") != API_VERSION:
        problems.append(_Problem("apiVersion", f"must be {API_VERSION}, not {_shown(manifest.get('apiVersion'))}"))
    metadata = _validated(Metadata, manifest.get("metadata"), "metadata", problems)
    spec = _validated(kind.spec, manifest.get("spec", {}), "spec", problems)
    if isinstance(metadata, Metadata):
        if "." in metadata.name and not kind.dotted:
            problems.append(_Problem("metadata.name", f"{_shown(metadata.name)} is not a name", NAME_RULE))
        metadata = metadata.model_copy(update={"project": _project(metadata, kind, project, problems)})
        if "." in metadata.name and not kind.dotted:
            problems.append(_Problem("metadata.name", f"{metadata.name!r} is not a name", NAME_RULE))
    if problems or not isinstance(metadata, Metadata) or not isinstance(spec, SpecModel):
        raise _invalid(problems, where)
    key = Key(kind.name, metadata.project, metadata.name)
    references = tuple(dict.fromkeys(kind.references(key, spec)))
    return Declaration(key, kind, metadata.labels, spec, references, metadata.generation, metadata.uid, where)


def _kind(manifest: Manifest, kinds: KindTable, where: str) -> Kind:
    name = manifest.get("kind")
    if not isinstance(name, str):
        raise Invalid("must name a kind", where=f"{where}: kind", hint=nearest("", (kind.name for kind in kinds)))
    try:
        return kinds.get(name)
    except Invalid as error:
        raise Invalid(error.message, where=f"{where}: kind", hint=error.hint) from error


def _project(metadata: Metadata, kind: Kind, default: str | None, problems: list[_Problem]) -> str:
    if kind.scope is Scope.REGION:
        if metadata.project:
            problems.append(_Problem("metadata.project", f"a {kind.name} belongs to the region", "remove the field"))
        return ""
    project: str = metadata.project or default or ""
    if not project:
        problems.append(_Problem("metadata.project", f"a {kind.name} belongs to a project", "write its name"))
    return project


def _validated(model: type[BaseModel], value: Any, field: str, problems: list[_Problem]) -> BaseModel | None:
    """The value as a model, or None after telling what is wrong with it."""
    if not isinstance(value, Mapping):
        problems.append(_Problem(field, f"must be a mapping, not {_shown(value)}"))
        return None
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        problems += [_problem(model, dict(detail), field) for detail in error.errors(include_url=False)]
        return None


def _problem(model: type[BaseModel], detail: dict[str, Any], prefix: str) -> _Problem:
    """One of pydantic's complaints in our words."""
    location: tuple[int | str, ...] = detail["loc"]
    field = prefix + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    if detail["type"] == "extra_forbidden":
        owner = _model_at(model, location[:-1])
        return _Problem(field, "is not a field", nearest(str(location[-1]), owner.model_fields) if owner else "")
    if detail["type"] == "missing":
        return _Problem(field, "is missing")
    if location in {("name",), ("project",)} and model is Metadata:
        return _Problem(field, f"{_shown(detail['input'])} is not a name", NAME_RULE)
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if detail["type"] == "value_error":
        return _Problem(field, message)
    if detail["type"] == "literal_error":
        hint = nearest(str(detail["input"])[:60], re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
        return _Problem(field, f"{message}, not {_shown(detail['input'])}", hint if hint.startswith("did") else "")
    return _Problem(field, f"{message[0].lower()}{message[1:]}, not {_shown(detail['input'])}")


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """The model that the fields at ``location`` belong to, for offering its field names."""
    found: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, str) and found is not None and part in found.model_fields:
            found = _model_in(found.model_fields[part].annotation)
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside ``X``, ``X | None``, ``list[X]``, ``dict[str, X]`` or ``Annotated[X, …]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {Annotated, Union, types.UnionType, list, dict, tuple}:
        return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)
    return None


def _invalid(problems: Sequence[_Problem], where: str) -> Invalid:
    first = problems[0]
    if len(problems) == 1:
        return Invalid(first.message, where=f"{where}: {first.field}", hint=first.hint)
    lines = [f"{p.field}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems[:PROBLEMS_MAX]]
    return Invalid(f"{len(problems)} problems: " + "; ".join(lines), where=f"{where}: {first.field}", hint=first.hint)


def together(errors: Sequence[FalajError]) -> FalajError:
    """One error for the problems of several manifests."""
    if len(errors) == 1:
        return errors[0]
    shown = "".join(f"\n  {error}" for error in errors[:PROBLEMS_MAX])
    more = f"\n  and {len(errors) - PROBLEMS_MAX} more" if len(errors) > PROBLEMS_MAX else ""
    first = errors[0]
    return type(first)(
        f"{len(errors)} manifests were refused, so none was applied:{shown}{more}", where=first.where, hint=first.hint
    )


def _shown(value: Any) -> str:
    """A value as a person wrote it, cut to a line; never a whole document."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return repr(text[:60]) if isinstance(value, str) else text[:60]
