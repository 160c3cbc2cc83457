"""Vectors and full text in LanceDB, in a folder or on S3. One table an index.

A table is a chain of immutable versions, so readers in other processes never see half a write, and ``replace_document``
is one commit. LanceDB and Arrow are imported at first use: they cost about 100 MB, which an idle region should not pay.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from falaj.engines.interface import Chunk, Hit, IndexDamaged, S3Credentials
from falaj.errors import FalajError, Invalid, LimitExceeded, Transient

_NAME = re.compile(r"^[a-z0-9][a-z0-9.-]{0,99}$")
_LANGUAGE = re.compile(r"^[a-z]{2,3}$")
_COLUMNS = ("document", "language", "heading", "start", "end", "text")
#: Versions younger than this stay, because a reader may be in the middle of one.
_VERSIONS_KEPT = timedelta(minutes=5)
#: Character n-grams find Arabic words under their prefixes and suffixes without a stemmer, and suit every other
#: language as well; measured in docs/decisions/0006-knowledge.md. What is indexed comes folded already.
_FULL_TEXT = {
    "base_tokenizer": "ngram",
    "ngram_min_length": 3,
    "ngram_max_length": 3,
    "lower_case": False,
    "ascii_folding": False,
    "stem": False,
    "remove_stop_words": False,
}
#: What Lance says when a table, or a file that its versions name, is not there.
_MISSING = re.compile(r"was not found|does not exist|not found: .*\.lance|no such table", re.IGNORECASE)
#: The place in Lance's own source that its messages end with.
_SOURCE_LINE = re.compile(r",? ?/\S+\.rs:\d+:\d+")
_FULL_DISK = re.compile(r"no space left|insufficient ?storage|disk full|quota exceeded", re.IGNORECASE)
_AWAY = re.compile(
    r"connect|timed? ?out|timeout|503|500 internal|error sending request|retr(?:y|ies)|conflict|broken pipe"
    r"|reset by peer",
    re.IGNORECASE,
)


class LanceIndex:
    """The :class:`~falaj.engines.interface.VectorIndex` on LanceDB.

    Args:
        uri: a folder, or ``s3://bucket/`` with ``credentials``; the bucket exists.
        cache_bytes_max: memory for cached index parts and metadata, each.
        seconds_max: how long one call may take.
    """

    def __init__(
        self,
        uri: str,
        credentials: S3Credentials | None = None,
        *,
        cache_bytes_max: int = 32 << 20,
        seconds_max: float = 60.0,
    ) -> None:
        self._uri = uri
        self._options = storage_options(credentials) if credentials else None
        self._cache_bytes_max = cache_bytes_max
        self._seconds_max = seconds_max
        self._connection: Any = None
        self._connecting = asyncio.Lock()

    async def observe(self, index: str) -> int | None:
        """How many chunks the index holds, or None when it does not exist."""
        async with self._translated(index):
            table = await self._table(index)
            return None if table is None else int(await table.count_rows())

    async def create(self, index: str, dimensions: int) -> None:
        """Make an empty index; one of other dimensions is replaced, since nothing in it could be compared."""
        async with self._translated(index):
            table = await self._table(index)
            if table is not None:
                if (await table.schema()).field("vector").type.list_size == dimensions:
                    await self._ensure_full_text(table)
                    return
                await self.delete(index)
            connection = await self._connect()
            table = await connection.create_table(index, schema=_schema(dimensions), exist_ok=True)
            await self._ensure_full_text(table)

    async def replace_document(self, index: str, document: str, chunks: Sequence[Chunk]) -> None:
        """Put ``chunks`` in the place of whatever the document had, in one commit; none removes it.

        Raises:
            IndexDamaged: the index does not exist, or cannot be read any more.
        """
        async with self._translated(index):
            table = await self._table(index)
            if table is None:
                raise IndexDamaged("the index does not exist", where=f"index {index}", hint="it is rebuilt by itself")
            of_document = f"document = {_quoted(document)}"
            if not chunks:
                await table.delete(of_document)
                return
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge = merge.when_not_matched_by_source_delete(of_document)
            await merge.execute(_rows(chunks, await table.schema()), timeout=timedelta(seconds=self._seconds_max))

    async def search_vector(
        self, index: str, vector: Sequence[float], *, limit: int, language: str | None = None
    ) -> list[Hit]:
        """The chunks most similar by cosine, best first; none when the index does not exist."""
        async with self._translated(index):
            table = await self._table(index)
            if table is None:
                return []
            query = table.query().nearest_to(list(vector)).distance_type("cosine")
            query = _in_language(query, language).limit(limit).select([*_COLUMNS, "_distance"])
            rows = await query.to_list()
        return _best_first(_hit(row, 1.0 - row["_distance"]) for row in rows)

    async def search_text(self, index: str, terms: str, *, limit: int, language: str | None = None) -> list[Hit]:
        """The chunks that BM25 ranks best for ``terms``, those written a moment ago among them."""
        if not terms.strip():
            return []
        async with self._translated(index):
            table = await self._table(index)
            if table is None:
                return []
            query = table.query().nearest_to_text(terms, columns=["terms"])
            query = _in_language(query, language).limit(limit).select([*_COLUMNS, "_score"])
            rows = await query.to_list()
        return _best_first(_hit(row, row["_score"]) for row in rows)

    async def optimise(self, index: str) -> None:
        """Fold small fragments together, index new rows, and drop versions older than five minutes."""
        async with self._translated(index):
            table = await self._table(index)
            if table is not None:
                await self._ensure_full_text(table)
                await table.optimize(cleanup_older_than=_VERSIONS_KEPT)

    async def delete(self, index: str) -> None:
        """Remove the index; a missing one is no error."""
        async with self._translated(index):
            connection = await self._connect()
            await connection.drop_table(_checked(index), ignore_missing=True)

    async def _connect(self) -> Any:
        async with self._connecting:
            if self._connection is None:
                lancedb = await asyncio.to_thread(importlib.import_module, "lancedb")
                session = lancedb.Session(
                    index_cache_size_bytes=self._cache_bytes_max, metadata_cache_size_bytes=self._cache_bytes_max
                )
                self._connection = await lancedb.connect_async(
                    self._uri, storage_options=self._options, session=session, read_consistency_interval=timedelta(0)
                )
            return self._connection

    async def _table(self, index: str) -> Any:
        """The table at its newest version, or None. Opened for each call: another process may have made it anew."""
        connection = await self._connect()
        try:
            return await connection.open_table(_checked(index))
        except (ValueError, RuntimeError, OSError) as error:
            if _MISSING.search(str(error)):
                return None
            raise

    async def _ensure_full_text(self, table: Any) -> None:
        if not any("terms" in index.columns for index in await table.list_indices()):
            config = importlib.import_module("lancedb.index").FTS(**_FULL_TEXT)
            await table.create_index("terms", config=config)

    @asynccontextmanager
    async def _translated(self, index: str) -> AsyncIterator[None]:
        """Bounds a call and turns what LanceDB raises into Falaj's errors."""
        where = f"index {index}"
        try:
            async with asyncio.timeout(self._seconds_max):
                yield
        except FalajError:
            raise
        except TimeoutError as error:
            raise Transient(f"the index did not answer in {self._seconds_max:.0f} s", where=where) from error
        except (ValueError, RuntimeError, OSError) as error:
            text = _SOURCE_LINE.sub("", " ".join(str(error).split()))[:300]
            if _FULL_DISK.search(text):
                raise LimitExceeded(
                    f"the index cannot be written: {text}", where=where, hint="free disk space"
                ) from error
            if _AWAY.search(text):
                raise Transient(f"the index cannot be reached: {text}", where=where) from error
            raise IndexDamaged(f"the index is damaged: {text}", where=where, hint="it is rebuilt by itself") from error


def storage_options(credentials: S3Credentials) -> dict[str, str]:
    """How LanceDB reaches an S3 store. Its own retries are kept short: the caller knows better when to try again."""
    return {
        "endpoint": credentials.endpoint_url,
        "access_key_id": credentials.access_key,
        "secret_access_key": credentials.secret_key,
        "region": credentials.region,
        "allow_http": "true",
        "virtual_hosted_style_request": "false",
        "connect_timeout": "3s",
        "timeout": "30s",
        "client_max_retries": "2",
        "client_retry_timeout": "10",
    }


def _schema(dimensions: int) -> Any:
    pa = importlib.import_module("pyarrow")
    strings = [
        pa.field(name, pa.string(), False) for name in ("id", "document", "language", "heading", "text", "terms")
    ]
    numbers = [pa.field(name, pa.int64(), False) for name in ("start", "end")]
    return pa.schema([*strings, *numbers, pa.field("vector", pa.list_(pa.float32(), dimensions), False)])


def _rows(chunks: Sequence[Chunk], schema: Any) -> Any:
    pa = importlib.import_module("pyarrow")
    fields: list[Mapping[str, object]] = [
        {
            "id": f"{chunk.document}#{number}",
            "document": chunk.document,
            "language": chunk.language,
            "heading": chunk.heading,
            "text": chunk.text,
            "terms": chunk.terms,
            "start": chunk.start,
            "end": chunk.end,
            "vector": list(chunk.vector),
        }
        for number, chunk in enumerate(chunks)
    ]
    return pa.Table.from_pylist(fields, schema=schema)


def _hit(row: Mapping[str, Any], score: float) -> Hit:
    return Hit(**{name: row[name] for name in _COLUMNS}, score=float(score))


def _best_first(hits: Any) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.document, hit.start))


def _in_language(query: Any, language: str | None) -> Any:
    if language is None:
        return query
    if not _LANGUAGE.match(language):
        raise Invalid(f"{language[:20]!r} is not a language code", hint="two or three lowercase letters")
    return query.where(f"language = '{language}'")


def _quoted(text: str) -> str:
    """A string literal of the filter language (SQL)."""
    return "'" + text.replace("'", "''") + "'"


def _checked(index: str) -> str:
    if not _NAME.match(index):
        raise Invalid(f"{index[:120]!r} is not the name of an index")
    return index
