"""Postgres for the kernel: a pool that heals by itself, one translation of errors, notifications, migrations.

No psycopg error leaves this module: what may work later becomes ``Transient``, a unique key that exists ``Conflict``,
a full disk ``LimitExceeded``, text that Postgres cannot hold ``Invalid``; the rest is a defect and becomes
``Terminal``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import select
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import resources
from typing import Any, LiteralString, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, Notify, errors, sql
from psycopg.errors import Diagnostic
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from falaj.errors import Conflict, FalajError, Invalid, LimitExceeded, Terminal, Transient

logger = logging.getLogger(__name__)

Connection = AsyncConnection[DictRow]

#: What ``listen`` yields after a gap: notifications may have been missed, read everything again.
GAP = ("", "")
#: What ``listen`` yields, when asked to, while nothing happens: nothing was missed until now.
BEAT = ("", "beat")

#: A process that is frozen inside a transaction keeps its row locks; after this time Postgres takes them away. Nothing
#: but statements belongs into a transaction, so a live process is never near it.
IDLE_SECONDS_MAX = 5

_MIGRATION = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_MIGRATION_LOCK = 0x66616C616A01
_RECONNECT_SECONDS = (0.1, 0.2, 0.5, 1.0)

# SQLSTATEs (class or code) that go away by themselves: connections, shutdown, conflicts between transactions, timeouts,
# memory, a standby that does not take writes yet, a table that `control` has yet to make.
# https://www.postgresql.org/docs/18/errcodes-appendix.html
_TRANSIENT = ("08", "40", "53", "55P03", "57P01", "57P02", "57P03", "57P05", "57014", "25006", "58", "42P01")


def translate(error: psycopg.Error) -> FalajError:
    """What a psycopg error means to Falaj; the caller raises it ``from`` the original."""
    state, text = error.sqlstate or "", str(error).strip().split("\n")[0]
    if state in {"53100", "53400"}:
        return LimitExceeded(
            f"Postgres cannot write: {text}", where="postgres", hint="free space on the disk of the site's data folder"
        )
    if isinstance(error, errors.UniqueViolation | errors.ForeignKeyViolation | errors.ExclusionViolation):
        return Conflict(error.diag.message_detail or text, where="postgres", hint="read it again, then decide")
    if isinstance(error, PoolTimeout | PoolClosed | TooManyRequests) or state.startswith(_TRANSIENT):
        return Transient(
            f"Postgres is away, busy or not prepared: {text}", where="postgres", hint="it is tried again by itself"
        )
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state:
        return Transient(f"Postgres cannot be reached: {text}", where="postgres", hint="it is tried again by itself")
    if isinstance(error, psycopg.DataError):
        return Invalid(f"Postgres cannot hold this value: {text}", hint="remove NUL and other control characters")
    return Terminal(
        f"Postgres refused a statement of Falaj: {text}", where="postgres", hint="this is a defect; report it"
    )


@asynccontextmanager
async def _bounded(seconds_max: float) -> AsyncIterator[None]:
    """Ends the block after ``seconds_max`` and translates what it raises."""
    scope = asyncio.timeout(seconds_max)
    try:
        async with scope:
            yield
    except psycopg.Error as error:
        raise translate(error) from error
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise Transient(f"Postgres did not answer within {seconds_max:.0f} s", where="postgres") from error


class _CommitDoubt:
    """Hears the warning that a commit was *not* confirmed by the synchronous standby.

    Postgres reports such a COMMIT as done. Whoever believes it acknowledges what a failover loses.
    """

    def __init__(self) -> None:
        self.heard = False

    def __call__(self, notice: Diagnostic) -> None:
        if notice.source_function == "SyncRepWaitForLSN":  # the same in every language of messages and every version
            self.heard = True


class Database:
    """A bounded pool of connections to one Postgres.

    Opening does not wait for Postgres to be there. A call does, for at most ``wait_seconds``; then it raises
    ``Transient``.

    Args:
        conninfo: address, user, password and database, as a libpq connection string or URI.
        connections_max: the most connections that the pool opens; listeners have one more each.
        wait_seconds: how long a call waits for a free connection.
        statement_seconds_max: how long a statement, or a whole transaction, may take.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        connections_max: int = 8,
        wait_seconds: float = 5.0,
        statement_seconds_max: float = 30.0,
        application: str = "falaj",
    ) -> None:
        self._conninfo = conninfo
        self._seconds_max = statement_seconds_max
        self._connect_options: dict[str, Any] = {
            "autocommit": True,
            "row_factory": dict_row,
            "connect_timeout": max(2, int(wait_seconds)),
            "application_name": application,
            "options": f"-c statement_timeout={int(statement_seconds_max * 1000)}"
            f" -c idle_in_transaction_session_timeout={IDLE_SECONDS_MAX * 1000}",
        }
        self._doubts: WeakKeyDictionary[Connection, _CommitDoubt] = WeakKeyDictionary()
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            kwargs=self._connect_options,
            min_size=1,
            max_size=connections_max,
            timeout=wait_seconds,
            reconnect_timeout=1.0,  # give up soon: the next caller tries again at once, without a long backoff
            max_idle=120.0,
            open=False,
            configure=self._watch_replication,
            name=application,
        )

    async def open(self) -> None:
        """Start the pool; Postgres need not be there yet."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def __aenter__(self) -> Database:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """A connection inside a transaction: commits at the end of the block, rolls back when the block raises."""
        return self._transaction()

    async def fetch(self, statement: LiteralString, *parameters: Any) -> list[dict[str, Any]]:
        """The rows that a statement returns. Placeholders are ``%s``."""
        async with self._connection() as connection:
            cursor = await connection.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description is not None else []

    async def execute(self, statement: LiteralString, *parameters: Any) -> int:
        """Run a statement and say how many rows it touched."""
        async with self._connection() as connection:
            return (await connection.execute(statement, parameters)).rowcount

    async def listen(self, *channels: str, beat_seconds: float | None = None) -> AsyncGenerator[tuple[str, str], None]:
        """Notifications as ``(channel, payload)``, for ever: a lost connection is made again.

        Yields ``GAP`` whenever something may have been missed, the start included, once the channels are listened to:
        whoever reads everything on ``GAP`` and then follows the notifications misses nothing. With ``beat_seconds``,
        yields ``BEAT`` after each silence of that length in which the connection was found to be alive.
        """
        failures = 0
        while True:
            try:
                options = {**self._connect_options, "application_name": "falaj-listen"}
                connection = cast(Connection, await AsyncConnection.connect(self._conninfo, **options))
                try:
                    for channel in channels:
                        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    failures = 0
                    yield GAP
                    async for notification in self._notifications(connection, beat_seconds or 10.0):
                        if notification is not None:
                            yield notification.channel, notification.payload
                        elif beat_seconds is not None:
                            yield BEAT
                finally:
                    await connection.close()
            except (psycopg.Error, TimeoutError) as error:
                level = logging.WARNING if failures == 0 else logging.DEBUG
                logger.log(level, "listening to %s was interrupted: %s", ", ".join(channels), error)
                await asyncio.sleep(_RECONNECT_SECONDS[min(failures, len(_RECONNECT_SECONDS) - 1)])
                failures += 1

    async def _notifications(self, connection: Connection, silence_seconds: float) -> AsyncIterator[Notify | None]:
        """Notifications; None after each silence, when the connection was found to be alive."""
        while True:
            silent = True
            async for notification in connection.notifies(timeout=silence_seconds):
                silent = False
                yield notification
            async with asyncio.timeout(5.0):
                await connection.execute("SELECT 1")
            if silent:
                yield None

    async def _watch_replication(self, connection: Connection) -> None:
        self._doubts[connection] = doubt = _CommitDoubt()
        connection.add_notice_handler(doubt)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A live connection, with errors translated and a doubted commit turned into an error."""
        async with _bounded(self._seconds_max + 1.0):
            connection = await self._live_connection()
            doubt = self._doubts[connection]
            doubt.heard = False
            try:
                yield connection
            finally:
                await self._pool.putconn(connection)
            if doubt.heard:
                raise Transient(
                    "the commit was not confirmed by the synchronous standby; it may be lost in a failover",
                    where="postgres",
                    hint="read it again, then decide",
                )

    async def _live_connection(self) -> Connection:
        """A pooled connection that the server has not closed.

        An idle connection has nothing to read unless the server ended it, so a glance at the socket is enough; after a
        restart of Postgres the dead ones are passed over here and nobody sees an error.
        """
        while True:
            connection = await self._pool.getconn()
            poll = select.poll()
            poll.register(connection.fileno(), select.POLLIN)
            if not poll.poll(0):
                return connection
            await connection.close()
            await self._pool.putconn(connection)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with self._connection() as connection, connection.transaction():
            yield connection


async def migrate(database: Database) -> None:
    """Bring the schema to this version of Falaj; safe to run in several processes at once, and again.

    Raises:
        Terminal: the database was made by a newer Falaj, or an applied migration was edited since.
    """
    files = _migrations()
    async with database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migration (number integer PRIMARY KEY, name text NOT NULL,"
            " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        cursor = await connection.execute("SELECT number, name, sha256 FROM schema_migration ORDER BY number")
        applied = {row["number"]: row for row in await cursor.fetchall()}
        for number, row in applied.items():
            if number not in files:
                raise Terminal(
                    f"the database is newer than this Falaj: it has migration {row['name']}",
                    where="postgres",
                    hint="start the Falaj version that made it, or a newer one",
                )
            if row["sha256"] != files[number][1]:
                raise Terminal(f"migration {row['name']} was edited after it was applied", where="postgres",
                               hint="restore the file; write a new migration instead")  # fmt: skip
        for number, (name, sha256, text) in sorted(files.items()):
            if number in applied:
                continue
            await connection.execute(text)
            await connection.execute(
                "INSERT INTO schema_migration (number, name, sha256) VALUES (%s, %s, %s)", (number, name, sha256)
            )
            logger.info("applied migration %s", name)


def _migrations() -> dict[int, tuple[str, str, LiteralString]]:
    """The migrations of this version: number → (name, SHA-256, statements)."""
    found: dict[int, tuple[str, str, LiteralString]] = {}
    for file in resources.files("falaj.region").joinpath("migrations").iterdir():
        match = _MIGRATION.match(file.name)
        if match is None:
            continue
        text = file.read_text(encoding="utf-8")
        found[int(match[1])] = (file.name, hashlib.sha256(text.encode()).hexdigest(), text)
    return found
