"""Leases: who works on which resource, and the proof of it that every write of a controller carries.

A lease is a row with a holder, an end and a *fencing token*. Tokens come from one sequence, so whoever takes a resource
over holds a greater one. Every write proves the token in its own transaction; a holder that was frozen past its end and
wakes up finds its row gone or changed, and writes nothing. The holder measures the end on its own monotonic clock, from
*before* it asked: so it gives up earlier than the database gives the resource to another.

The claim queue is the table ``resource`` itself: due is what has ``reconcile_at`` in the past and no running lease. A
row stays due while it is held, so the work of a killed holder is due again when its lease ends, without anyone's help.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb

from falaj.errors import Conflict, Terminal
from falaj.region.database import Connection, Database
from falaj.region.events import Happening, record
from falaj.region.resource import Key, Resource
from falaj.region.store import REFERRERS, Store, columns, keys_of, lock, wake

logger = logging.getLogger(__name__)

_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT r.* FROM resource r
    WHERE r.reconcile_at <= now() AND r.kind = ANY(%s) AND NOT EXISTS (
        SELECT 1 FROM lease l WHERE (l.kind, l.project, l.name) = (r.kind, r.project, r.name) AND l.expires_at > now())
    ORDER BY r.reconcile_at LIMIT %s FOR NO KEY UPDATE OF r SKIP LOCKED
), taken AS (
    INSERT INTO lease AS l (kind, project, name, holder, token, expires_at)
    SELECT kind, project, name, %s, nextval('lease_token'), now() + make_interval(secs => %s) FROM due
    ON CONFLICT (kind, project, name) DO UPDATE
        SET holder = excluded.holder, token = excluded.token, expires_at = excluded.expires_at
        WHERE l.expires_at <= now()
    RETURNING kind, project, name, token
)
SELECT r.*, taken.token, r.deletion_requested_at IS NOT NULL AND (
    EXISTS (SELECT 1 FROM reference f
            WHERE (f.target_kind, f.target_project, f.target_name) = (r.kind, r.project, r.name))
    OR r.kind = 'Project' AND EXISTS (SELECT 1 FROM resource held WHERE held.project = r.name)
) AS in_use
FROM taken JOIN due r USING (kind, project, name)
"""

_RELEASE = """
WITH done AS (
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::float8[], %s::int[], %s::bigint[])
        AS t (kind, project, name, token, delay_seconds, failures, wakes)
), held AS (
    DELETE FROM lease l USING done
    WHERE (l.kind, l.project, l.name, l.token) = (done.kind, done.project, done.name, done.token)
    RETURNING l.token
)
UPDATE resource r SET failures = done.failures, reconcile_at = CASE
    WHEN r.wakes <> done.wakes THEN now()
    ELSE now() + make_interval(secs => done.delay_seconds) END -- null without a delay
FROM done JOIN held USING (token) WHERE (r.kind, r.project, r.name) = (done.kind, done.project, done.name)
RETURNING done.token, r.wakes <> done.wakes AS due
"""

# What a resource that goes has referred to: a target that waits for its own deletion may go now. Whether it waits is
# not asked here, because its deletion may be asked for at this very moment and would miss the news.
_TARGETS = """
SELECT t.kind, t.project, t.name FROM reference f
JOIN unnest(%s::text[], %s::text[], %s::text[]) AS gone (kind, project, name) USING (kind, project, name)
JOIN resource t ON (t.kind, t.project, t.name) = (f.target_kind, f.target_project, f.target_name)
"""


@dataclass(slots=True)
class Claim:
    """A resource under a lease of ours.

    Attributes:
        token: the fencing token.
        deadline: on the monotonic clock, when we must have stopped unless the lease was renewed.
        wakes: how often it had been woken when it was claimed; more at the release means another look.
        failures: failed reconciliations in a row, so far.
        in_use: it is being deleted, but something still names it or is inside it.
    """

    resource: Resource
    token: int
    deadline: float
    wakes: int = 0
    failures: int = 0
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """How a reconciliation ended.

    Attributes:
        status: the new status, when it changed.
        delay_seconds: when to look again; None: not before it is woken.
        gone: everything was cleaned up and the row may go.
    """

    claim: Claim
    delay_seconds: float | None
    failures: int = 0
    status: dict[str, Any] | None = None
    gone: bool = False
    happenings: Sequence[Happening] = field(default=())


class Leases:
    """Claims, renews, proves and releases leases for one holder.

    Args:
        holder: names this process to people who look; safety rests on the token alone.
        lease_seconds: how long a lease lasts without renewal.
    """

    def __init__(self, database: Database, store: Store, *, holder: str, lease_seconds: float = 30.0) -> None:
        self._database = database
        self._store = store
        self.holder = holder
        self.lease_seconds = lease_seconds
        self._own_writes = asyncio.Lock()  # renewal and release lock the same rows, in different orders

    async def claim(self, kinds: Collection[str], limit: int) -> list[Claim]:
        """Take up to ``limit`` due resources, those that wait longest first."""
        deadline = time.monotonic() + self.lease_seconds
        rows = await self._database.fetch(_CLAIM, list(kinds), limit, self.holder, self.lease_seconds)
        claims = []
        for row in rows:
            try:
                resource = self._store.resource(row)
            except Terminal as error:  # its lease keeps it out of the way; one row must not stop the others
                logger.warning("%s", error)
                continue
            claims.append(Claim(resource, row["token"], deadline, row["wakes"], row["failures"], row["in_use"]))
        return claims

    async def next_due_seconds(self, kinds: Collection[str], horizon_seconds: float) -> float:
        """In how many seconds something can be claimed, or ``horizon_seconds`` when nothing can before."""
        (row,) = await self._database.fetch(
            """
            SELECT extract(epoch FROM min(greatest(r.reconcile_at, l.expires_at)) - now())::float8 AS seconds
            FROM resource r LEFT JOIN lease l USING (kind, project, name)
            WHERE r.reconcile_at < now() + make_interval(secs => %s) AND r.kind = ANY(%s)
            """,
            horizon_seconds,
            list(kinds),
        )
        return horizon_seconds if row["seconds"] is None else max(0.0, min(horizon_seconds, row["seconds"]))

    async def renew(self, claims: Collection[Claim]) -> set[int]:
        """Prolong leases, and say which tokens are lost."""
        deadline = time.monotonic() + self.lease_seconds
        tokens = [claim.token for claim in claims]
        async with self._own_writes:
            rows = await self._database.fetch(
                """
            UPDATE lease l SET expires_at = now() + make_interval(secs => %s)
            FROM (SELECT l.kind, l.project, l.name FROM lease l JOIN unnest(%s::bigint[]) AS mine (token) USING (token)
                  ORDER BY l.kind, l.project, l.name FOR UPDATE OF l) AS held
            WHERE (l.kind, l.project, l.name) = (held.kind, held.project, held.name) AND l.token = ANY(%s)
            RETURNING l.token
            """,
                self.lease_seconds,
                tokens,
                tokens,
            )
        kept = {row["token"] for row in rows}
        for claim in claims:
            if claim.token in kept:
                claim.deadline = deadline
        return {*tokens} - kept

    async def prove(self, connection: Connection, key: Key, token: int) -> None:
        """Prove, until the end of this transaction, that we still hold the lease.

        Raises:
            Conflict: we do not; roll back.
        """
        cursor = await connection.execute(
            "SELECT 1 FROM lease WHERE (kind, project, name) = (%s, %s, %s) AND token = %s FOR SHARE",
            (key.kind, key.project, key.name, token),
        )
        if await cursor.fetchone() is None:
            raise Conflict(
                f"the lease of {key} was lost (token {token})", where=str(key), hint="its new holder goes on with it"
            )

    async def save(self, claim: Claim, status: dict[str, Any] | None, happenings: Sequence[Happening] = ()) -> None:
        """Write a status now and keep the lease.

        Raises:
            Conflict: the lease was lost; nothing was written.
        """
        key = claim.resource.key
        async with self._database.transaction() as connection:
            referrers = await keys_of(connection, REFERRERS, [key]) if status is not None else []
            await lock(connection, [key, *referrers])
            await self.prove(connection, key, claim.token)
            if status is not None:
                await _write_statuses(connection, {key: status})
                await wake(connection, referrers)
            await record(connection, happenings)

    async def release(self, finished: Sequence[Finished]) -> list[Finished]:
        """Write results and give the leases back, in one transaction; those that are due again at once are returned.

        A claim that was lost meanwhile writes nothing and is passed over.
        """
        own = [f.claim.resource.key for f in finished]
        news = [f for f in finished if f.status is not None or f.gone]
        async with self._own_writes, self._database.transaction() as connection:
            woken = await self._affected(connection, news) if news else set()
            await lock(connection, [*own, *woken])
            cursor = await connection.execute(
                _RELEASE,
                (
                    *columns(own),
                    [f.claim.token for f in finished],
                    [f.delay_seconds for f in finished],
                    [f.failures for f in finished],
                    [f.claim.wakes for f in finished],
                ),
            )
            due = {row["token"]: row["due"] for row in await cursor.fetchall()}
            held = [f for f in finished if f.claim.token in due]
            await _write_statuses(
                connection, {f.claim.resource.key: f.status for f in held if f.status is not None and not f.gone}
            )
            await _remove(connection, [f.claim.resource.key for f in held if f.gone])
            await wake(connection, woken)
            await record(connection, [happening for f in held for happening in f.happenings])
        for lost in (f for f in finished if f.claim.token not in due):
            logger.warning("%s: the lease (token %d) was lost, its result is dropped", lost.claim.resource.key,
                           lost.claim.token)  # fmt: skip
        return [f for f in held if due[f.claim.token]]

    async def _affected(self, connection: Connection, news: Iterable[Finished]) -> set[Key]:
        """Who should look again: those that name what changed; for what goes, also its project and its targets."""
        gone = [f.claim.resource.key for f in news if f.gone]
        changed = [f.claim.resource.key for f in news]
        referrers = await keys_of(connection, REFERRERS, changed)
        targets = await keys_of(connection, _TARGETS, gone)
        return {*referrers, *targets, *(Key("Project", "", key.project) for key in gone if key.project)}


async def _write_statuses(connection: Connection, statuses: dict[Key, dict[str, Any]]) -> None:
    if statuses:
        await connection.execute(
            "UPDATE resource r SET status = new.status"
            " FROM unnest(%s::text[], %s::text[], %s::text[], %s::jsonb[]) AS new (kind, project, name, status)"
            " WHERE (r.kind, r.project, r.name) = (new.kind, new.project, new.name)",
            (*columns(statuses), [Jsonb(status) for status in statuses.values()]),
        )


async def _remove(connection: Connection, keys: Sequence[Key]) -> None:
    """Remove rows whose deletion was asked for, unless something came to use them meanwhile."""
    if keys:
        await connection.execute(
            "DELETE FROM resource r USING unnest(%s::text[], %s::text[], %s::text[]) AS gone (kind, project, name)"
            " WHERE (r.kind, r.project, r.name) = (gone.kind, gone.project, gone.name)"
            " AND r.deletion_requested_at IS NOT NULL",
            columns(keys),
        )
