"""Reading resources and events, and asking for a look at them.

Specs are written by admission alone, statuses under a lease alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString

from psycopg.types.json import Jsonb
from pydantic import ValidationError

from falaj.errors import NotFound, Terminal, nearest
from falaj.region import events
from falaj.region.database import Connection, Database
from falaj.region.events import Event
from falaj.region.resource import Key, KindTable, Metadata, Resource

#: The most rows that one call returns; ask for the next page with ``after``.
PAGE_MAX = 1000

#: The resources that name any of the given ones.
REFERRERS: LiteralString = """
SELECT DISTINCT f.kind, f.project, f.name
FROM reference f JOIN unnest(%s::text[], %s::text[], %s::text[]) AS target (kind, project, name)
    ON (f.target_kind, f.target_project, f.target_name) = (target.kind, target.project, target.name)
"""
_LOCK = """
SELECT 1 FROM resource r JOIN unnest(%s::text[], %s::text[], %s::text[]) AS wanted (kind, project, name)
    USING (kind, project, name)
ORDER BY kind, project, name FOR NO KEY UPDATE OF r
"""
_WAKE = """
UPDATE resource r SET wakes = wakes + 1, reconcile_at = least(reconcile_at, now())
FROM unnest(%s::text[], %s::text[], %s::text[]) AS wanted (kind, project, name)
WHERE (r.kind, r.project, r.name) = (wanted.kind, wanted.project, wanted.name)
"""


def columns(keys: Iterable[Key]) -> tuple[list[str], list[str], list[str]]:
    """Keys as three arrays, for ``unnest``."""
    keys = list(keys)
    return [k.kind for k in keys], [k.project for k in keys], [k.name for k in keys]


class Store:
    """The resources of a region, typed by the kind table."""

    def __init__(self, database: Database, kinds: KindTable) -> None:
        self._database = database
        self.kinds = kinds

    def resource(self, row: Mapping[str, Any]) -> Resource:
        """A row of the table ``resource`` as its kind's models.

        Raises:
            Terminal: this version of Falaj cannot read the stored spec.
        """
        kind = self.kinds.get(row["kind"])
        metadata = Metadata.model_construct(
            name=row["name"],
            project=row["project"],
            labels=row["labels"],
            generation=row["generation"],
            uid=str(row["uid"]),
            createdAt=row["created_at"],
            deletionRequestedAt=row["deletion_requested_at"],
        )
        try:
            spec = kind.spec.model_validate(row["spec"])
        except ValidationError as error:
            where = str(Key(row["kind"], row["project"], row["name"]))
            raise Terminal(
                f"the stored spec does not fit this version of Falaj: {error.errors()[0]['msg']}",
                where=where,
                hint="apply it again as this version wants it",
            ) from error
        try:
            status = kind.status.model_validate(row["status"])
        except ValidationError:
            status = kind.status()  # of another version; a status can always be observed again
        return Resource(kind, metadata, spec, status)

    async def get(self, key: Key) -> Resource:
        """The resource.

        Raises:
            NotFound: there is none; the hint offers the nearest names.
        """
        found = await self.find(key)
        if found is None:
            raise await self.missing(key)
        return found

    async def missing(self, key: Key) -> NotFound:
        """The error for a resource that does not exist, with the nearest names of its kind and project."""
        rows = await self._database.fetch(
            "SELECT name FROM resource WHERE kind = %s AND project = %s ORDER BY name LIMIT %s",
            key.kind, key.project, PAGE_MAX,
        )  # fmt: skip
        where = f" in project {key.project!r}" if key.project else ""
        return NotFound(
            f"there is no {key.kind} {key.name!r}{where}", hint=nearest(key.name, (r["name"] for r in rows))
        )

    async def find(self, key: Key) -> Resource | None:
        """The resource, or None."""
        found = await self.find_many([key])
        return found.get(key)

    async def find_many(self, keys: Sequence[Key]) -> dict[Key, Resource]:
        """Those of the keys that exist."""
        rows = await self._database.fetch(
            "SELECT r.* FROM resource r JOIN unnest(%s::text[], %s::text[], %s::text[]) AS wanted (kind, project, name)"
            " USING (kind, project, name)",
            *columns(keys),
        )
        return {resource.key: resource for resource in map(self.resource, rows)}

    async def counts(self) -> dict[str, dict[str, int]]:
        """How many resources of each kind there are, and how many of them are ready."""
        rows = await self._database.fetch(
            "SELECT kind, count(*) AS total, count(*) FILTER (WHERE ready) AS ready FROM resource GROUP BY kind"
        )
        counted = {row["kind"]: {"total": row["total"], "ready": row["ready"]} for row in rows}
        return {kind.name: counted.get(kind.name, {"total": 0, "ready": 0}) for kind in self.kinds}

    async def referrers(self, key: Key) -> list[Key]:
        """The resources whose spec names this one."""
        rows = await self._database.fetch(
            "SELECT kind, project, name FROM reference WHERE (target_kind, target_project, target_name) = (%s, %s, %s)"
            " ORDER BY kind, project, name",
            key.kind, key.project, key.name,
        )  # fmt: skip
        return [Key(row["kind"], row["project"], row["name"]) for row in rows]

    async def events(
        self, *, key: Key | None = None, project: str | None = None, after: int = 0, limit: int = 200
    ) -> list[Event]:
        """The first ``limit`` events with an id above ``after``; with ``after`` 0, the latest. Oldest first."""
        return await events.read(
            self._database, key=key, project=project, after=after, limit=max(0, min(limit, PAGE_MAX))
        )

    async def touch(self, *keys: Key) -> None:
        """Ask for a look at these resources now."""
        async with self._database.transaction() as connection:
            await wake(connection, keys)

    async def touch_referrers(self, key: Key) -> None:
        """Ask for a look now at whatever names this resource."""
        await self.touch(*await self.referrers(key))

    async def list(
        self,
        kind: str,
        *,
        project: str | None = None,
        labels: Mapping[str, str] = {},
        limit: int = 500,
        after: tuple[str, str] = ("", ""),
    ) -> list[Resource]:
        """Resources of a kind in the order of (project, name), at most ``limit`` (and ``PAGE_MAX``) of them.

        Args:
            kind: the kind, by any word for it.
            project: only of this project.
            labels: only with all of these labels.
            limit: size of the page.
            after: (project, name) of the last one of the page before.
        """
        rows = await self._database.fetch(
            "SELECT * FROM resource WHERE kind = %s AND (project, name) > (%s, %s)"
            " AND (%s::text IS NULL OR project = %s) AND labels @> %s ORDER BY project, name LIMIT %s",
            self.kinds.get(kind).name, *after, project, project, Jsonb(dict(labels)), max(0, min(limit, PAGE_MAX)),
        )  # fmt: skip
        return [self.resource(row) for row in rows]


async def lock(connection: Connection, keys: Iterable[Key]) -> None:
    """Lock rows against other writers until the transaction ends.

    Everyone who writes several rows locks all of them first, in the order of their keys: so no two wait for each other.
    """
    await connection.execute(_LOCK, columns(keys))


async def wake(connection: Connection, keys: Iterable[Key]) -> None:
    """Make resources due now. One that is being reconciled is looked at once more: ``wakes`` is compared at the end."""
    keys = sorted({*keys})
    if keys:
        await lock(connection, keys)
        await connection.execute(_WAKE, columns(keys))


async def keys_of(connection: Connection, statement: LiteralString, keys: Iterable[Key]) -> list[Key]:
    """The keys that a statement over the three arrays of ``keys`` returns."""
    cursor = await connection.execute(statement, columns(keys))
    return [Key(row["kind"], row["project"], row["name"]) for row in await cursor.fetchall()]
