"""Events: what happened to a resource, for the people who own it. Bounded, and counted instead of repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from falaj.region.database import Connection, Database
from falaj.region.resource import Key

MESSAGE_CHARACTERS_MAX = 1000
#: What is kept: the last so many events of a resource, of the region, and none older than so many days.
KEPT_PER_RESOURCE, KEPT, KEPT_DAYS = 50, 100_000, 14

_FOLLOWING = """
SELECT * FROM event WHERE id > %s AND (%s::text IS NULL OR (kind, name) = (%s, %s))
    AND (%s::text IS NULL OR project = %s) ORDER BY id LIMIT %s
"""
_LATEST = """
SELECT * FROM (
    SELECT * FROM event WHERE id > %s AND (%s::text IS NULL OR (kind, name) = (%s, %s))
        AND (%s::text IS NULL OR project = %s) ORDER BY id DESC LIMIT %s
) AS latest ORDER BY id
"""

# One writer of events commits at a time, so that ids appear in order and nobody who reads "after id" misses one.
# The lock is the last one that a transaction takes, so it cannot deadlock with row locks.
_WRITERS_LOCK = 0x66616C616A02


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a resource; ``count`` times in a row, the last time ``at``."""

    id: int
    at: datetime
    key: Key
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    count: int

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON-ready fields."""
        return {
            "id": self.id,
            "at": self.at.isoformat(),
            "kind": self.key.kind,
            "project": self.key.project,
            "name": self.key.name,
            "type": self.type,
            "reason": self.reason,
            "message": self.message,
            "count": self.count,
        }


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that is about to be recorded. ``reason`` is a CamelCase word, ``message`` a sentence."""

    key: Key
    reason: str
    message: str
    warning: bool = False


async def record(connection: Connection, happenings: Sequence[Happening]) -> None:
    """Write events at the end of a transaction; one that repeats its resource's last event is counted there instead."""
    if not happenings:
        return
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITERS_LOCK,))
    await connection.execute(
        """
        WITH new AS (
            SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
                WITH ORDINALITY AS t (kind, project, name, type, reason, message, nth)
        ), repeated AS (
            SELECT new.nth, last.id FROM new, LATERAL (
                SELECT * FROM event e WHERE (e.kind, e.project, e.name) = (new.kind, new.project, new.name)
                ORDER BY e.id DESC LIMIT 1
            ) AS last WHERE (last.type, last.reason, last.message) = (new.type, new.reason, new.message)
        ), counted AS (
            UPDATE event SET count = count + 1, at = clock_timestamp() FROM repeated WHERE event.id = repeated.id
        )
        INSERT INTO event (kind, project, name, type, reason, message)
        SELECT kind, project, name, type, reason, message FROM new
        WHERE nth NOT IN (SELECT nth FROM repeated) ORDER BY nth
        """,
        (
            [h.key.kind for h in happenings],
            [h.key.project for h in happenings],
            [h.key.name for h in happenings],
            ["Warning" if h.warning else "Normal" for h in happenings],
            [h.reason for h in happenings],
            [h.message[:MESSAGE_CHARACTERS_MAX].replace("\0", "") for h in happenings],
        ),
    )


async def read(database: Database, *, key: Key | None, project: str | None, after: int, limit: int) -> list[Event]:
    """The first ``limit`` events with an id above ``after``; with ``after`` 0, the latest. Oldest first."""
    rows = await database.fetch(
        _FOLLOWING if after > 0 else _LATEST,
        after,
        *((key.kind, key.kind, key.name, key.project, key.project) if key else (None, "", "", project, project)),
        limit,
    )
    return [
        Event(
            r["id"], r["at"], Key(r["kind"], r["project"], r["name"]), r["type"], r["reason"], r["message"], r["count"]
        )
        for r in rows
    ]


async def prune(database: Database) -> int:
    """Remove what is too old or too many; how many rows went."""
    return await database.execute(
        """
        DELETE FROM event WHERE at < now() - make_interval(days => %s)
            OR id <= coalesce((SELECT id FROM event ORDER BY id DESC OFFSET %s LIMIT 1), 0)
            OR id IN (SELECT id FROM (
                SELECT id, row_number() OVER (PARTITION BY kind, project, name ORDER BY id DESC) AS nth FROM event
            ) AS ranked WHERE nth > %s)
        """,
        KEPT_DAYS,
        KEPT,
        KEPT_PER_RESOURCE,
    )
