"""What a resource is: a declared spec, an observed status, and the name it is known by.

The model follows the Kubernetes resource model (apiVersion, kind, metadata, spec, status, conditions, generation)
because that is the vocabulary platform teams already read; see docs/architecture.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from falaj.errors import Invalid, nearest

API_VERSION = "falaj/v1"

#: The project whose endpoints every project may use. It exists in every region.
SYSTEM_PROJECT = "system"

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
NAME_RULE = "1 to 40 lowercase letters, digits and hyphens; it starts and ends with a letter or a digit"
#: Kinds that say so (``Kind.dotted``) also take dots, as models have them: ``qwen2.5-coder-1.5b-instruct``.
DOTTED_NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,38}[a-z0-9])?$"
_NAME, _DOTTED_NAME = re.compile(NAME_PATTERN), re.compile(DOTTED_NAME_PATTERN)

#: A DNS label short enough that ``project.bucket`` still fits an S3 bucket name (3 to 63 characters).
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
DottedName = Annotated[str, StringConstraints(pattern=DOTTED_NAME_PATTERN)]


class Scope(StrEnum):
    """Where a kind's names are unique: in the whole region, or in one project."""

    REGION = "region"
    PROJECT = "project"


class SpecModel(BaseModel):
    """What a user declares. Unknown fields are refused; defaults are filled in at admission."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The full name of a resource; ``project`` is empty for kinds of region scope."""

    kind: str
    project: str
    name: str

    def __str__(self) -> str:
        project = f"{self.project}/" if self.project else ""
        return f"{self.kind}/{project}{self.name}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """Read what ``str(key)`` wrote.

        Raises:
            Invalid: the text is not ``kind/name`` or ``kind/project/name``.
        """
        match text.split("/"):
            case [kind, name]:
                return cls(kind, "", name)
            case [kind, project, name]:
                return cls(kind, project, name)
        raise Invalid(f"{text!r} is not a resource key", hint="write kind/name or kind/project/name")


class Condition(BaseModel):
    """One observed fact about a resource: ``type`` holds, does not hold, or is not known yet.

    ``reason`` is a stable CamelCase word for scripts, ``message`` a sentence for people,
    ``since`` when status last changed.
    """

    model_config = ConfigDict(frozen=True)

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    since: datetime = Field(default_factory=lambda: datetime.now(UTC))


#: The condition type that every kind reports: the resource does what it was declared for.
READY = "Ready"


class StatusModel(BaseModel):
    """What a controller observed. Written by controllers only, and only under the lease of their resource."""

    model_config = ConfigDict(extra="ignore")

    observedGeneration: int = 0  # noqa: N815 -- the field's name on the wire, as platform teams know it
    conditions: list[Condition] = Field(default_factory=list)

    def condition(self, kind: str = READY) -> Condition | None:
        """The condition of that type, or None when it was never reported."""
        return next((condition for condition in self.conditions if condition.type == kind), None)

    @property
    def ready(self) -> bool:
        """Whether the Ready condition holds."""
        condition = self.condition()
        return condition is not None and condition.status == "True"

    def set_condition(
        self, status: Literal["True", "False", "Unknown"], reason: str, message: str = "", *, type_: str = READY
    ) -> None:
        """Report a condition; ``since`` moves only when ``status`` changes."""
        before = self.condition(type_)
        since = before.since if before is not None and before.status == status else datetime.now(UTC)
        condition = Condition(type=type_, status=status, reason=reason, message=message, since=since)
        self.conditions = [c for c in self.conditions if c.type != type_] + [condition]


class Metadata(BaseModel):
    """Who a resource is. ``uid``, ``generation`` and the times are the store's to write."""

    model_config = ConfigDict(extra="forbid")

    name: DottedName
    project: Name | Literal[""] = ""
    labels: dict[str, Annotated[str, StringConstraints(max_length=128)]] = Field(default_factory=dict, max_length=32)
    generation: int = 0
    uid: str = ""
    createdAt: datetime | None = None  # noqa: N815
    deletionRequestedAt: datetime | None = None  # noqa: N815


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the kind table: everything the kernel must know about a kind, and no more.

    Attributes:
        name: CamelCase, as written in a manifest (``KnowledgeBase``).
        plural: lowercase, as written in a path (``knowledgebases``).
        scope: where its names are unique.
        spec: the Pydantic model of what is declared.
        status: the Pydantic model of what is observed.
        room: the package that owns it; for ``falaj describe`` and the guides.
        references: the resources that a spec names. What is referenced cannot be deleted while the reference stands,
            and its controller's news wakes the one that refers to it. Called with the resource's own key and its spec.
        short: further words the CLI accepts for it.
        dotted: whether its names may hold dots.
    """

    name: str
    plural: str
    scope: Scope
    spec: type[SpecModel]
    status: type[StatusModel]
    room: str
    references: Callable[[Key, Any], Iterable[Key]] = field(default=lambda key, spec: ())
    short: tuple[str, ...] = ()
    dotted: bool = False


@dataclass(slots=True)
class Resource:
    """A resource as the store holds it, with typed spec and status."""

    kind: Kind
    metadata: Metadata
    spec: Any
    status: Any

    @property
    def key(self) -> Key:
        """Its full name."""
        return Key(self.kind.name, self.metadata.project, self.metadata.name)

    @property
    def deleting(self) -> bool:
        """Whether its deletion was asked for: the controller cleans up, then the row goes."""
        return self.metadata.deletionRequestedAt is not None

    def as_dict(self) -> dict[str, Any]:
        """The resource as JSON-ready fields, in the shape of a manifest plus ``status``."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind.name,
            "metadata": self.metadata.model_dump(mode="json", exclude_none=True),
            "spec": self.spec.model_dump(mode="json", exclude_none=True),
            "status": self.status.model_dump(mode="json", exclude_none=True),
        }


class KindTable:
    """The kinds that a region knows, found by any word that a person would use for them."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._words = {
            word.lower(): kind for kind in self._kinds.values() for word in (kind.name, kind.plural, *kind.short)
        }

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def get(self, word: str) -> Kind:
        """The kind meant by a name, a plural or a short form, in any case.

        Raises:
            Invalid: no kind is called that; the hint offers the nearest.
        """
        kind = self._words.get(word.lower())
        if kind is None:
            raise Invalid(f"there is no kind {word!r}", hint=nearest(word, self._kinds))
        return kind


def check_name(name: str, *, where: str, dotted: bool = False) -> str:
    """Return ``name`` when it follows the naming rule.

    Raises:
        Invalid: it does not; the message states the rule.
    """
    if not (_DOTTED_NAME if dotted else _NAME).fullmatch(name):
        raise Invalid(f"{name[:80]!r} is not a name", where=where, hint=NAME_RULE)
    return name


Manifest = Mapping[str, Any]
