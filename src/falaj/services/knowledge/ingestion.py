"""One document from object to index: read, parse, cut, embed, index, and the row that says so, in that order.

Every step can be repeated, and only the row says that a document is done. Killed anywhere, the document is simply read
again: vectors that were computed are found in their table, the extracted text is the same object, and the index
replaces a document as a whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from falaj.engines.interface import Chunk, ObjectStore, VectorIndex
from falaj.errors import LimitExceeded, NotFound, Transient
from falaj.region.reconciler import Work
from falaj.region.resource import Key, Resource
from falaj.region.snapshot import Snapshot
from falaj.services.knowledge.chunking import Piece, chunk, context
from falaj.services.knowledge.documents import Documents, Outcome
from falaj.services.knowledge.kinds import KnowledgeBaseSpec, endpoint_key
from falaj.services.knowledge.language import detect, from_path
from falaj.services.knowledge.normalise import plain_letters, terms
from falaj.services.knowledge.parsing.document import ParsedDocument, Unreadable
from falaj.services.knowledge.parsing.parse import format_of, parse
from falaj.services.models.gateway import Gateway
from falaj.services.storage.objects import TEXTS_BUCKET

#: Raise it when parsing, cutting or folding changes: every document is then read again.
_RECIPE_VERSION = 1
_EMBED_BATCH = 16
#: How long one step may spend on the vectors of one document; the next step goes on where this one ended.
_EMBED_SECONDS_MAX = 120.0
_CONTEXT_CHARACTERS_MAX = 300
_RETRY_SECONDS, _RETRY_SECONDS_MAX = 5.0, 600.0
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class Source:
    """An object that is a document. ``name`` is ``bucket/key``: how the document is called in citations."""

    name: str
    s3_bucket: str
    key: str
    etag: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a knowledge base makes passages and vectors; a document made by another recipe is read again."""

    base: Key
    spec: KnowledgeBaseSpec
    model: str

    @property
    def index(self) -> str:
        """The name of the knowledge base's index."""
        return f"{self.base.project}.{self.base.name}"

    @property
    def fingerprint(self) -> str:
        """Changes when anything does that shapes passages or vectors."""
        parts = [_RECIPE_VERSION, self.model, self.spec.chunk_characters_max, *self.spec.languages]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def recipe_of(resource: Resource, snapshot: Snapshot) -> Recipe:
    """The recipe that a knowledge base declares.

    Raises:
        Transient: its embedding endpoint does not exist or is not ready; the message says which.
    """
    key = endpoint_key(resource.key.project, resource.spec.embedding)
    endpoint = snapshot.find(key)
    if endpoint is None or not endpoint.status.ready:
        what = "does not exist" if endpoint is None else "is not ready"
        raise Transient(
            f"the embedding endpoint {key.project}/{key.name} {what}",
            hint=f"see `falaj describe endpoint {key.name} --project {key.project}`",
            retry_after_seconds=15.0,
        )
    weights = snapshot.find(Key("Model", "", endpoint.spec.model))
    identity = [endpoint.spec.model]
    if weights is not None:
        identity.append(weights.spec.sha256 or weights.spec.catalogue or "")
    return Recipe(resource.key, resource.spec, ":".join(identity))


def text_key(base: Key, document: str) -> str:
    """The key of a document's extracted text in the bucket of texts; spans of citations index that text."""
    return f"{base.project}/{base.name}/{hashlib.sha256(document.encode()).hexdigest()}.txt"


class Ingestion:
    """Reads documents into the index of their knowledge base."""

    def __init__(self, objects: ObjectStore, index: VectorIndex, gateway: Gateway, documents: Documents) -> None:
        self._objects = objects
        self._index = index
        self._gateway = gateway
        self._documents = documents

    async def ingest(self, recipe: Recipe, source: Source, work: Work, *, attempts: int) -> Outcome | None:
        """Read one document and record how it ended; None: the time was over in the middle, ask again.

        A document's own fault is recorded and ends there. So is the first ``Transient``, with a time to try again,
        because it may be this document that kills a worker.

        Raises:
            Transient: something that ingestion needs is away; the document is recorded to be tried again.
            LimitExceeded: a disk is full. IndexDamaged: the index must be made anew. Conflict: the lease was lost.
        """
        fields: dict[str, Any] = {
            "name": source.name,
            "etag": source.etag,
            "recipe": recipe.fingerprint,
            "size_bytes": source.size_bytes,
        }
        try:
            outcome = await self._ingest(recipe, source, work, fields)
        except Unreadable as error:
            # The search must not go on answering from what the document said before it broke.
            await self._index.replace_document(recipe.index, source.name, [])
            outcome = Outcome(**fields, reason=error.reason, message=_printable(str(error)))
        except Transient as error:
            wait_seconds = min(_RETRY_SECONDS * 2.0**attempts, _RETRY_SECONDS_MAX)
            failed = Outcome(
                **fields,
                reason="Transient",
                message=_printable(str(error)),
                attempts=attempts + 1,
                retry_seconds=wait_seconds,
            )
            await self._documents.record(recipe.base, failed, work.prove)
            raise
        if outcome is not None:
            await self._documents.record(recipe.base, outcome, work.prove)
        return outcome

    async def _ingest(self, recipe: Recipe, source: Source, work: Work, fields: dict[str, Any]) -> Outcome | None:
        document = await self._read(recipe.spec, source)
        pieces = chunk(document, recipe.spec.chunk_characters_max)
        if not pieces:
            raise Unreadable("Empty", "the document holds no words")
        above = [context(document, piece)[:_CONTEXT_CHARACTERS_MAX] for piece in pieces]
        texts = [embedded_text(heading, piece) for heading, piece in zip(above, pieces, strict=True)]
        digests = [hashlib.sha256(f"{recipe.model}\0{text}".encode()).digest() for text in texts]
        vectors = await self._embed(recipe, source.name, dict(zip(digests, texts, strict=True)))
        if vectors is None:
            return None
        language, declared = _language(document, source.key, recipe.spec.languages)
        chunks = [
            Chunk(
                document=source.name,
                language=_piece_language(piece, language, declared, recipe.spec.languages),
                heading=piece.heading,
                start=piece.start,
                end=piece.end,
                text=piece.text,
                terms=terms(text),
                vector=vectors[digest],
            )
            for piece, text, digest in zip(pieces, texts, digests, strict=True)
        ]
        await self._objects.put(
            TEXTS_BUCKET,
            text_key(recipe.base, source.name),
            document.text.encode(),
            content_type="text/plain; charset=utf-8",
        )
        await self._documents.prove(work.prove)
        await self._index.replace_document(recipe.index, source.name, chunks)
        await self._documents.prune_vectors(recipe.base, source.name, digests)
        return Outcome(**fields, title=_printable(document.title), language=language, chunks=len(chunks))

    async def _read(self, spec: KnowledgeBaseSpec, source: Source) -> ParsedDocument:
        format_of(source.name)  # before anything is fetched
        if source.size_bytes == 0:
            raise Unreadable("Empty", "the file is empty")
        too_large = Unreadable(
            "TooLarge",
            f"the file has {source.size_bytes:,} bytes; at most {spec.document_bytes_max:,} are read",
            hint="raise document_bytes_max of the knowledge base, or split the file",
        )
        if source.size_bytes > spec.document_bytes_max:
            raise too_large
        try:
            content = await self._objects.get(source.s3_bucket, source.key, size_bytes_max=spec.document_bytes_max)
        except LimitExceeded as error:
            raise too_large from error
        except NotFound as error:  # removed since it was listed; should it be listed again, it is tried again later
            raise Transient("the object was listed but is not there", where=source.name) from error
        return await parse(source.name, content)

    async def _embed(
        self, recipe: Recipe, document: str, texts: dict[bytes, str]
    ) -> dict[bytes, Sequence[float]] | None:
        """The vector of each text by its digest; None when the time was over first."""
        ends = time.monotonic() + _EMBED_SECONDS_MAX
        vectors = await self._documents.vectors(recipe.base, document)
        missing = [digest for digest in texts if digest not in vectors]
        for start in range(0, len(missing), _EMBED_BATCH):
            if time.monotonic() > ends:
                return None
            batch = missing[start : start + _EMBED_BATCH]
            embedded = await self._gateway.embed(
                recipe.base.project,
                endpoint_key(recipe.base.project, recipe.spec.embedding),
                [texts[digest] for digest in batch],
                input_type="passage",
            )
            fresh = dict(zip(batch, embedded.vectors, strict=True))
            await self._documents.keep_vectors(recipe.base, document, fresh)
            vectors |= fresh
        return vectors

    async def remove(self, recipe_index: str, base: Key, name: str, work: Work) -> None:
        """Take a document that is no longer in the sources out of index, texts and rows."""
        await self._documents.prove(work.prove)
        await self._index.replace_document(recipe_index, name, [])
        await self._objects.delete(TEXTS_BUCKET, text_key(base, name))
        await self._documents.forget(base, name, work.prove)


def embedded_text(above: str, piece: Piece) -> str:
    """What is embedded of a passage, and what full text searches: the passage under what stands above it."""
    return plain_letters(f"{above}\n{piece.text}".strip())


def _language(document: ParsedDocument, key: str, among: Sequence[str]) -> tuple[str, bool]:
    """The language of a document, and whether its folder or the document itself declares it."""
    declared = from_path(key, among) or (document.language if document.language in among else None)
    return declared or detect(document.text[document.body_start :], among), declared is not None


def _piece_language(piece: Piece, language: str, declared: bool, among: Sequence[str]) -> str:
    """The language of a passage: what its text says, unless the document declares one.

    Arabic script is believed even then; Latin script is not, since commands in an Arabic page belong to Arabic readers.
    """
    own = detect(piece.text, among, default=language)
    return language if declared and own != "ar" else own


def _printable(text: str) -> str:
    """Text that a row and a terminal can hold."""
    return _UNPRINTABLE.sub(" ", text).strip()[:500]
