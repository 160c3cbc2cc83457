"""The kind of the knowledge room: KnowledgeBase."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from falaj.region.resource import SYSTEM_PROJECT, Key, Kind, Name, Scope, SpecModel, StatusModel

Language = Literal["ar", "en", "fr"]


class BucketSource(SpecModel):
    """Documents are the objects of a bucket of the same project, under a prefix."""

    bucket: Name
    prefix: Annotated[str, StringConstraints(max_length=512)] = ""


class KnowledgeBaseSpec(SpecModel):
    """Documents that agents may read and cite."""

    sources: Annotated[list[BucketSource], Field(min_length=1, max_length=32)]
    languages: Annotated[list[Language], Field(min_length=1)] = ["ar", "en", "fr"]
    embedding: Annotated[str, StringConstraints(pattern=r"^([a-z0-9-]+/)?[a-z0-9.-]+$")] = f"{SYSTEM_PROJECT}/e5"
    """The embeddings endpoint: ``name`` in the same project, or ``project/name``."""
    chunk_characters_max: Annotated[int, Field(ge=200, le=4000)] = 700
    document_bytes_max: Annotated[int, Field(ge=1, le=1 << 30)] = 32 << 20
    """A larger document fails with a reason; the others go on."""


class KnowledgeBaseStatus(StatusModel):
    """How much of the sources is searchable."""

    documents: int = 0
    documents_ready: int = 0
    documents_failed: int = 0
    chunks: int = 0


def endpoint_key(project: str, reference: str) -> Key:
    """The endpoint meant by ``name`` (in ``project``) or ``other-project/name``."""
    owner, _, name = reference.rpartition("/")
    return Key("Endpoint", owner or project, name)


def _references(key: Key, spec: KnowledgeBaseSpec) -> list[Key]:
    buckets = [Key("Bucket", key.project, source.bucket) for source in spec.sources]
    return [*buckets, endpoint_key(key.project, spec.embedding)]


KNOWLEDGE_BASE = Kind(
    "KnowledgeBase",
    "knowledgebases",
    Scope.PROJECT,
    KnowledgeBaseSpec,
    KnowledgeBaseStatus,
    "knowledge",
    _references,
    ("kb",),
)
