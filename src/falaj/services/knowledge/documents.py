"""The rows about documents: which object was read, how it went, and the vectors of its passages."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from falaj.region.database import Connection, Database
from falaj.region.resource import Key

#: The most documents that one knowledge base may have.
DOCUMENTS_MAX = 20_000

#: Proves inside a transaction that the writer may still write; raises ``Conflict`` when it may not.
Proof = Callable[[Connection], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """A document that was read, as its owner sees it. ``state`` is ``ready`` or ``failed``."""

    document: str
    state: str
    reason: str
    message: str
    title: str
    language: str
    chunks: int
    size_bytes: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Row:
    """What is remembered of a document, to decide whether it must be read again."""

    name: str
    etag: str
    recipe: str
    state: str
    chunks: int
    attempts: int
    due: bool
    """It failed, and the time to try again has come."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How reading a document ended. ``reason`` is empty when it is ready; ``retry_seconds`` None means never."""

    name: str
    etag: str
    recipe: str
    size_bytes: int
    reason: str = ""
    message: str = ""
    title: str = ""
    language: str = ""
    chunks: int = 0
    attempts: int = 0
    retry_seconds: float | None = None


class Documents:
    """The tables ``document`` and ``passage_vector``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def known(self, base: Key) -> dict[str, Row]:
        """Every document that has a row, by name."""
        rows = await self._database.fetch(
            "SELECT name, etag, recipe, state, chunks, attempts, coalesce(retry_at <= now(), false) AS due"
            " FROM document WHERE (project, knowledge_base) = (%s, %s)",
            base.project,
            base.name,
        )
        return {row["name"]: Row(**row) for row in rows}

    async def list(self, base: Key) -> list[DocumentInfo]:
        """The documents with their state, by name."""
        rows = await self._database.fetch(
            "SELECT name AS document, state, reason, message, title, language, chunks, size_bytes, updated_at"
            " FROM document WHERE (project, knowledge_base) = (%s, %s) ORDER BY name LIMIT %s",
            base.project,
            base.name,
            DOCUMENTS_MAX,
        )
        return [DocumentInfo(**row) for row in rows]

    async def prove(self, prove: Proof) -> None:
        """Prove right before an effect outside the database that the writer may still write.

        Raises:
            Conflict: the writer lost its lease.
        """
        async with self._database.transaction() as connection:
            await prove(connection)

    async def record(self, base: Key, outcome: Outcome, prove: Proof) -> None:
        """Write how reading a document ended.

        Raises:
            Conflict: the writer lost its lease.
        """
        async with self._database.transaction() as connection:
            await prove(connection)
            await connection.execute(
                """
                INSERT INTO document (project, knowledge_base, name, etag, recipe, size_bytes, state, reason, message,
                                      title, language, chunks, attempts, retry_at)
                VALUES (%(project)s, %(base)s, %(name)s, %(etag)s, %(recipe)s, %(size_bytes)s, %(state)s, %(reason)s,
                        %(message)s, %(title)s, %(language)s, %(chunks)s, %(attempts)s,
                        now() + make_interval(secs => %(retry_seconds)s::float8))
                ON CONFLICT (project, knowledge_base, name) DO UPDATE SET
                    etag = excluded.etag, recipe = excluded.recipe, size_bytes = excluded.size_bytes,
                    state = excluded.state, reason = excluded.reason, message = excluded.message,
                    title = excluded.title, language = excluded.language, chunks = excluded.chunks,
                    attempts = excluded.attempts, retry_at = excluded.retry_at, updated_at = now()
                """,
                {"project": base.project, "base": base.name, "state": _state(outcome), **_fields(outcome)},
            )

    async def forget(self, base: Key, name: str, prove: Proof) -> None:
        """Remove a document's row and vectors.

        Raises:
            Conflict: the writer lost its lease.
        """
        async with self._database.transaction() as connection:
            await prove(connection)
            for statement in (
                "DELETE FROM document WHERE (project, knowledge_base, name) = (%s, %s, %s)",
                "DELETE FROM passage_vector WHERE (project, knowledge_base, document) = (%s, %s, %s)",
            ):
                await connection.execute(statement, (base.project, base.name, name))

    async def forget_all(self, base: Key, prove: Proof, *, vectors: bool) -> None:
        """Remove every row of a knowledge base; with ``vectors``, those too.

        Raises:
            Conflict: the writer lost its lease.
        """
        async with self._database.transaction() as connection:
            await prove(connection)
            of_base = (base.project, base.name)
            await connection.execute("DELETE FROM document WHERE (project, knowledge_base) = (%s, %s)", of_base)
            if vectors:
                await connection.execute(
                    "DELETE FROM passage_vector WHERE (project, knowledge_base) = (%s, %s)", of_base
                )

    async def vectors(self, base: Key, document: str) -> dict[bytes, Sequence[float]]:
        """The known vectors of a document's passages, by digest."""
        rows = await self._database.fetch(
            "SELECT digest, vector FROM passage_vector WHERE (project, knowledge_base, document) = (%s, %s, %s)",
            base.project,
            base.name,
            document,
        )
        return {row["digest"]: unpack(row["vector"]) for row in rows}

    async def keep_vectors(self, base: Key, document: str, vectors: Mapping[bytes, Sequence[float]]) -> None:
        """Remember vectors; those that are known already stay."""
        async with self._database.transaction() as connection, connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO passage_vector VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [(base.project, base.name, document, digest, pack(vector)) for digest, vector in vectors.items()],
            )

    async def prune_vectors(self, base: Key, document: str, digests: Iterable[bytes]) -> None:
        """Drop the vectors of passages that the document no longer has."""
        await self._database.execute(
            "DELETE FROM passage_vector WHERE (project, knowledge_base, document) = (%s, %s, %s)"
            " AND NOT digest = ANY(%s)",
            base.project,
            base.name,
            document,
            list(digests),
        )


def pack(vector: Sequence[float]) -> bytes:
    """A vector as 32-bit floats, little-endian."""
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tobytes()


def unpack(content: bytes) -> Sequence[float]:
    """What :func:`pack` wrote."""
    floats = array("f", content)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats


def _state(outcome: Outcome) -> str:
    return "failed" if outcome.reason else "ready"


def _fields(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in Outcome.__slots__}
