"""The types of the REST wire: the bodies that are not resources themselves, and what a route is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from falaj.protocols.http import Call
from falaj.region.resource import Kind, Name

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8192)]

#: A Pydantic model, the name of a schema of the OpenAPI document (a kind), or a media type (it contains a slash).
Schema = type[BaseModel] | str


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the wire; the router and the OpenAPI document are both made of these.

    Attributes:
        template: the path; ``{name}`` is one segment, ``{name:path}`` the rest.
        handle: serves a call whose path matched, given the path's parts by name.
        summary: one line for the reader of the OpenAPI document.
        answer: what a successful call answers, with ``status``.
        body: what it takes.
        query: its query parameters and what they mean.
        kind: the kind of resource that it is about, when it is about one.
    """

    method: Literal["GET", "PUT", "POST", "DELETE"]
    template: str
    handle: Callable[[Call, dict[str, str]], Awaitable[None]]
    summary: str
    answer: Schema
    status: int = 200
    body: Schema | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    kind: Kind | None = None


class Body(BaseModel):
    """What a client sends; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyBody(Body):
    """A key to make."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    project: Name | None = None
    """The project that the key is good for; the whole region when not given."""
    expires_at: datetime | None = None
    """When the key stops working; never, when not given. A time without an offset is UTC."""

    @field_validator("expires_at")
    @classmethod
    def _future(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        value = value if value.tzinfo else value.replace(tzinfo=UTC)
        if value <= datetime.now(UTC):
            raise ValueError("is in the past")
        return value


class SearchBody(Body):
    """A search of a knowledge base."""

    query: Text
    limit: Annotated[int, Field(ge=1, le=50)] = 5


class AskBody(Body):
    """A question to an agent."""

    question: Text


class ErrorFields(BaseModel):
    """What is wrong, where, and what to do."""

    code: Literal["Invalid", "Denied", "NotFound", "Conflict", "LimitExceeded", "Transient", "Terminal", "FalajError"]
    message: str
    where: str
    hint: str


class ErrorBody(BaseModel):
    """Every answer whose status is 400 or more."""

    error: ErrorFields


class KeyNameFields(BaseModel):
    """The full name of a resource."""

    kind: str
    project: str
    name: str


class KeyNameList(BaseModel):
    """Resources by name."""

    items: list[KeyNameFields]


class OutcomeBody(BaseModel):
    """What became of one manifest."""

    kind: str
    project: str
    name: str
    action: Literal["created", "updated", "unchanged", "deleting"]
    generation: int


class ApplyBody(BaseModel):
    """What became of each manifest, in the order given."""

    results: list[OutcomeBody]


class KeyFields(BaseModel):
    """A key, without its secret. ``key`` is there once: in the answer to the call that made it."""

    id: str
    name: str
    project: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = None
    key: str | None = None


class KeyList(BaseModel):
    """Keys, newest first."""

    items: list[KeyFields]


class EventFields(BaseModel):
    """Something that happened to a resource."""

    id: int
    at: datetime
    kind: str
    project: str
    name: str
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    count: int
    """How many times in a row; ``at`` is the last time."""


class EventList(BaseModel):
    """Events, oldest first; the last ``id`` is the next call's ``after``."""

    items: list[EventFields]


class ObjectFields(BaseModel):
    """An object of a bucket."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime


class ObjectList(BaseModel):
    """Objects in key order."""

    items: list[ObjectFields]
    next: str
    """The next call's ``after``; empty at the end."""


class CredentialsBody(BaseModel):
    """What an S3 client needs."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str


class EngineFields(BaseModel):
    """One process of a site."""

    name: str
    ready: bool
    pid: int | None
    port: int | None
    restarts: int
    message: str


class SiteFields(BaseModel):
    """One site."""

    name: str
    jurisdiction: str
    ready: bool
    engines: list[EngineFields]


class CountFields(BaseModel):
    """How many resources of a kind there are."""

    total: int
    ready: int


class StatusBody(BaseModel):
    """The region at a glance."""

    region: str
    ready: bool
    url: str
    s3_url: str
    version: str
    sites: list[SiteFields]
    resources: dict[str, CountFields]


class KindFields(BaseModel):
    """One row of the kind table."""

    name: str
    plural: str
    scope: Literal["region", "project"]
    short: list[str]
    room: str


class KindList(BaseModel):
    """The kind table."""

    items: list[KindFields]


class CatalogueFields(BaseModel):
    """One model of the catalogue."""

    name: str
    task: str
    size_bytes: int | None
    licence: str
    languages: list[str]
    context_tokens_max: int
    pulled: bool
    """Whether a model of the region that names this entry has its file, checked."""


class CatalogueList(BaseModel):
    """The model catalogue."""

    items: list[CatalogueFields]


class Citation(BaseModel):
    """Where in the documents an answer stands: characters ``start`` to ``end``."""

    document: str
    heading: str
    quote: str
    start: int
    end: int


class AnswerBody(BaseModel):
    """An agent's answer."""

    answer: str
    citations: list[Citation]
    refused: bool
    """The documents do not say; ``answer`` tells so."""
    model: str
    site: str
    usage: dict[str, int]
    seconds: float


class PassageFields(BaseModel):
    """A passage that a search found."""

    knowledge_base: str
    document: str
    heading: str
    start: int
    end: int
    text: str
    language: str
    score: float
    dense: float
    lexical: float


class PassageList(BaseModel):
    """Passages, best first."""

    items: list[PassageFields]


class DocumentFields(BaseModel):
    """One document of a knowledge base, and why it is not searchable when it is not."""

    document: str
    state: Literal["ready", "failed", "pending"]
    reason: str
    message: str
    title: str
    language: str
    chunks: int
    size_bytes: int
    updated_at: datetime


class DocumentList(BaseModel):
    """Documents, by name."""

    items: list[DocumentFields]
