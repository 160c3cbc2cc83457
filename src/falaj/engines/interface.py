"""What the rest of Falaj may expect of an engine. Services know these protocols; nobody imports an engine module.

One verb set for whatever an engine holds: ``observe`` (never changes anything), ``create``, ``update``, ``delete``,
each idempotent, so a reconciler can be killed at any line and run again. Each protocol has one conformance suite under
``tests/conformance/`` that every engine behind it must pass. Optional powers are small protocols of their own.

Errors: engines raise from ``falaj.errors`` only; a vendor's error is translated once, in the engine's module.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from falaj.errors import Terminal

# --- processes of a site -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """How the supervisor tells that a process is ready: a TCP connect, or an HTTP GET that answers 2xx."""

    port: int
    path: str | None = None
    host: str = "127.0.0.1"
    timeout_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process that the supervisor keeps running.

    ``account`` names the unprivileged account it runs as when the supervisor is root (engines that refuse root).
    ``environment`` is added to the supervisor's own. Secrets travel in files, never in ``argv``.
    """

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    directory: str | None = None
    account: str | None = None
    probe: Probe | None = None
    ports: tuple[int, ...] = ()
    stop_signal: Literal["TERM", "INT", "QUIT"] = "TERM"
    stop_timeout_seconds: float = 20.0
    order: int = 50
    """Lower starts first and stops last. Starting does not wait: processes retry what they need."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A process as the supervisor last saw it."""

    name: str
    phase: Literal["starting", "running", "ready", "backoff", "stopping", "stopped"]
    pid: int | None = None
    port: int | None = None
    restarts: int = 0
    message: str = ""
    started_at: datetime | None = None

    @property
    def ready(self) -> bool:
        """Whether the probe succeeded the last time (processes without a probe: whether they run)."""
        return self.phase == "ready"


class Processes(Protocol):
    """The processes of a site; the supervisor converges on what was declared, also after it was killed itself."""

    def observe(self, name: str) -> ProcessState | None:
        """The process as last seen, or None when it is neither declared nor running."""

    def observe_all(self) -> dict[str, ProcessState]:
        """Every process that is declared or running, by name."""

    def create(self, spec: ProcessSpec) -> None:
        """Declare a process. Declaring the same again changes nothing; a different spec restarts it."""

    def delete(self, name: str) -> None:
        """Withdraw a process; the supervisor stops it. Withdrawing what is not there changes nothing."""

    def allocate_port(self, purpose: str, preferred: int | None = None) -> int:
        """A loopback port for ``purpose``, the same at every call until something foreign takes it.

        Raises:
            Conflict: ``preferred`` is given and is taken by a process that is not ours; the message says which.
        """


# --- objects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing shows it."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """What a client needs to reach its buckets over S3."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


class ObjectStore(Protocol):
    """Objects by bucket and key. Bucket names are S3 names (``project.bucket``). A put that returned is on disk."""

    async def observe_buckets(self) -> frozenset[str]:
        """The names of all buckets."""

    async def create_bucket(self, bucket: str, *, versioning: bool = False) -> None:
        """Make the bucket; an existing one is brought to the asked versioning state."""

    async def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket; a missing one is no error.

        Raises:
            Conflict: it still holds objects.
        """

    async def observe_object(self, bucket: str, key: str) -> ObjectInfo | None:
        """The object, or None."""

    async def put(
        self, bucket: str, key: str, content: bytes, *, content_type: str = "application/octet-stream"
    ) -> str:
        """Store the object, durably, and return its ETag.

        Raises:
            NotFound: no such bucket. LimitExceeded: the disk is full. Transient: the store is away.
        """

    async def get(self, bucket: str, key: str, *, size_bytes_max: int | None = None) -> bytes:
        """The object's bytes.

        Raises:
            NotFound: no such bucket or key. LimitExceeded: larger than ``size_bytes_max``.
            Transient: the store is away.
        """

    async def delete(self, bucket: str, key: str) -> None:
        """Remove the object; a missing one is no error."""

    def list(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects under a prefix, in key order, paged from the store as they are read."""

    async def grant(self, project: str, access_key: str, secret_key: str) -> None:
        """Let these credentials read and write the buckets named ``project.*`` and nothing else. Idempotent."""

    async def revoke(self, project: str) -> None:
        """Take the project's credentials away; missing ones are no error."""

    def credentials(self, access_key: str, secret_key: str) -> S3Credentials:
        """What a client needs to use these keys: endpoint address and region."""


# --- model replicas and what is asked of them ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """A model copy to run. ``path`` is empty for weights that are bundled with the engine."""

    name: str
    path: Path | None
    alias: str
    context_tokens_max: int = 8192
    concurrency_max: int = 2
    threads: int | None = None
    idle_seconds_max: int | None = None
    """Give the weights' memory back after so long without a request; the next request loads them again."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A model copy as observed."""

    name: str
    url: str
    ready: bool
    pid: int | None = None
    message: str = ""


class ReplicaEngine(Protocol):
    """Runs copies of a model, each a worker process that speaks the OpenAI wire on a loopback port."""

    async def observe(self, name: str) -> ReplicaState | None:
        """The replica, or None when it is neither declared nor running."""

    async def create(self, spec: ReplicaSpec) -> None:
        """Run the replica; running the same spec again changes nothing.

        Raises:
            Terminal: the weights cannot be loaded (missing file, not of this engine's format).
        """

    async def update(self, spec: ReplicaSpec) -> None:
        """Bring a running replica to ``spec``; the engine restarts it when it must."""

    async def delete(self, name: str) -> None:
        """Stop the replica; a missing one is no error."""

    async def list(self) -> list[str]:
        """The names of all replicas that this engine runs."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An upstream's HTTP answer (always a success) whose body is still arriving."""

    status: int
    content_type: str
    body: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of some texts, in order, and how many tokens were read for them."""

    vectors: list[list[float]]
    tokens: int


class Inference(Protocol):
    """Calls a replica (or any server of the OpenAI wire) by its address."""

    def post(self, url: str, path: str, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send ``body`` to ``url + path``. Leaving the context early closes the connection, which ends the generation.

        Raises:
            Transient: the replica cannot be reached, is loading or busy, or broke off (then while the body is read).
            Invalid: the upstream refuses the request, such as a prompt past the context.
        """

    async def close(self) -> None:
        """Close every connection; the next call opens new ones."""

    async def embed(self, url: str, texts: Sequence[str], *, input_type: Literal["query", "passage"]) -> Vectors:
        """One vector of unit length for each text, in order.

        Raises:
            Transient: the replica cannot be reached. Invalid: a text is too long for the model.
        """


# --- vectors and full text -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document as it is indexed.

    ``text`` is exactly ``document_text[start:end]`` (characters, Python indexing). ``terms`` is what full text
    searches: the text after the normalisation of its language. ``heading`` is the path of headings
    above it, joined by `` › ``.
    """

    document: str
    language: str
    heading: str
    start: int
    end: int
    text: str
    terms: str
    vector: Sequence[float]


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a search found. ``score`` is the similarity or the full-text score: higher is better."""

    document: str
    language: str
    heading: str
    start: int
    end: int
    text: str
    score: float


class IndexDamaged(Terminal):
    """An index is missing where it must be, or can no longer be read. Deleting it and indexing again mends it."""


class VectorIndex(Protocol):
    """Chunks of knowledge bases, searched by vector and by words. It can always be rebuilt from the documents."""

    async def observe(self, index: str) -> int | None:
        """How many chunks the index holds, or None when it does not exist."""

    async def create(self, index: str, dimensions: int) -> None:
        """Make an empty index; an existing one with the same dimensions is left as it is."""

    async def replace_document(self, index: str, document: str, chunks: Sequence[Chunk]) -> None:
        """Put ``chunks`` in the place of whatever the document had; none removes it. All or nothing.

        Raises:
            IndexDamaged: the index does not exist or cannot be read; searches and ``observe`` raise it when unreadable.
            LimitExceeded: the disk is full. Transient: the store is away.
        """

    async def search_vector(
        self, index: str, vector: Sequence[float], *, limit: int, language: str | None = None
    ) -> list[Hit]:
        """The chunks most similar by cosine, best first; none when the index does not exist."""

    async def search_text(self, index: str, terms: str, *, limit: int, language: str | None = None) -> list[Hit]:
        """The chunks that BM25 ranks best for the normalised ``terms``, best first."""

    async def optimise(self, index: str) -> None:
        """Fold small fragments together and drop old versions; safe at any time."""

    async def delete(self, index: str) -> None:
        """Remove the index; a missing one is no error."""
