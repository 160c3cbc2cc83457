"""API keys and the principals that they stand for.

A key is ``flj_ID_SECRET``. The table ``api_key`` holds an HMAC-SHA-256 of the secret under a key that is kept in a file
(``key-hash.key``), so the table alone opens nothing. Looked-up keys are cached and forgotten at once when a row changes
(``NOTIFY falaj_key``); while Postgres is away, known keys go on working for a bounded time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString, Protocol

from falaj.errors import Denied, FalajError, Invalid, NotFound, Transient

logger = logging.getLogger(__name__)

CHANNEL = "falaj_key"
CACHE_KEYS_MAX = 10_000
LIST_MAX = 1000
NAME_CHARACTERS_MAX = 100
HASH_KEY_BYTES_MIN = 32
BEAT_SECONDS = 2.0
LAST_USED_SECONDS = 60.0

_KEY = re.compile(r"flj_([a-z2-7]{12})_([a-z2-7]{32,128})")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. ``project`` is None for a key of the whole region."""

    name: str
    key_id: str
    project: str | None


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as a listing shows it; never the secret."""

    id: str
    name: str
    project: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """The key as JSON-ready fields."""
        times = ("created_at", "expires_at", "revoked_at", "last_used_at")
        shown = {name: value.isoformat() if (value := getattr(self, name)) else None for name in times}
        return {"id": self.id, "name": self.name, "project": self.project, **shown}


class Rows(Protocol):
    """The database, as far as keys need it (``region.database.Database`` is one)."""

    async def fetch(self, statement: LiteralString, *parameters: Any) -> list[dict[str, Any]]:
        """The rows that a statement returns."""

    async def execute(self, statement: LiteralString, *parameters: Any) -> int:
        """Run a statement; how many rows it touched."""

    def listen(self, *channels: str, beat_seconds: float | None = None) -> AsyncGenerator[tuple[str, str], None]:
        """Notifications; an empty channel means a gap, or with a payload that nothing was missed until now."""


@dataclass(slots=True)
class _Cached:
    digest: bytes
    principal: Principal
    expires_at: datetime | None
    revoked: bool
    valid_at: float
    """When it was last known to be as the database has it (monotonic clock)."""
    stale: bool = False
    """It may have changed since: read it again, or, while Postgres is away, use it for a bounded time."""


class Keys:
    """Makes, lists, revokes and recognises API keys.

    Args:
        rows: the database.
        hash_key: the secret under which secrets are hashed, at least ``HASH_KEY_BYTES_MIN`` bytes.
        outage_seconds_max: how long known keys go on working without a word from Postgres.

    Without ``start`` nothing tells of changes, and every call reads the database.
    """

    def __init__(self, rows: Rows, hash_key: bytes, *, outage_seconds_max: float = 900.0) -> None:
        if len(hash_key) < HASH_KEY_BYTES_MIN:
            raise Invalid(f"the hash key has {len(hash_key)} bytes", hint=f"at least {HASH_KEY_BYTES_MIN} are needed")
        self._rows = rows
        self._hash_key = hash_key
        self._outage_seconds_max = outage_seconds_max
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._heard_at = float("-inf")  # when we last knew that no change was missed
        self._changes = 0
        self._used: dict[str, datetime] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to hear of changes."""
        self._task = asyncio.create_task(self._follow(), name="keys")

    async def close(self) -> None:
        """Stop hearing of changes, and write when keys were last used."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self._write_last_used()

    async def create(
        self, name: str, *, project: str | None = None, expires_at: datetime | None = None
    ) -> tuple[KeyInfo, str]:
        """Make a key; the text returned is shown once and kept nowhere.

        Args:
            name: for people: who or what uses it.
            project: the project it is limited to; None for the whole region.
            expires_at: when it stops working; None: never.
        """
        key = f"flj_{_random(12)}_{_random(52)}"
        return await self.register(key, name, project=project, expires_at=expires_at), key

    async def register(
        self, key: str, name: str, *, project: str | None = None, expires_at: datetime | None = None
    ) -> KeyInfo:
        """Let a key that was made elsewhere (an administrator's, kept in a file) be recognised. Idempotent.

        Raises:
            Invalid: it has not the form of a key, or the name is empty or too long.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise Invalid("this is not a key of Falaj", hint="a key looks like flj_ID_SECRET")
        if not 0 < len(name.strip()) <= NAME_CHARACTERS_MAX:
            raise Invalid(f"a key's name has 1 to {NAME_CHARACTERS_MAX} characters", where="name")
        (row,) = await self._rows.fetch(
            "INSERT INTO api_key (id, name, project, digest, expires_at) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (id) DO UPDATE SET digest = excluded.digest"
            " RETURNING id, name, project, created_at, expires_at, revoked_at, last_used_at",
            match[1], name.strip(), project, self._digest(match[2]), expires_at,
        )  # fmt: skip
        return KeyInfo(**row)

    async def revoke(self, key_id: str) -> None:
        """Make a key useless, everywhere, now. Revoking it again changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        touched = await self._rows.execute(
            "UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE id = %s", key_id
        )
        self._cache.pop(key_id, None)
        if touched == 0:
            raise NotFound(f"there is no key {key_id[:40]!r}", hint="see `falaj keys list`")

    async def revoke_project(self, project: str) -> int:
        """Revoke every key of a project that goes; how many there were. Whoever cached them hears of it."""
        return await self._rows.execute(
            "UPDATE api_key SET revoked_at = now() WHERE project = %s AND revoked_at IS NULL", project
        )

    async def principal(self, secret: str) -> Principal:
        """Who a key stands for.

        Raises:
            Denied: wrong or unknown (the message does not tell which), revoked, or expired.
            Transient: the key is not known yet and Postgres is away.
        """
        match = _KEY.fullmatch(secret)
        cached = await self._cached(match[1]) if match is not None else None
        expected = cached.digest if cached is not None else bytes(hashlib.sha256().digest_size)
        right = hmac.compare_digest(self._digest(match[2] if match is not None else ""), expected)
        if cached is None or not right:
            raise Denied("the key is not valid", hint="give a key of this region: Authorization: Bearer flj_…")
        if cached.revoked:
            raise Denied("the key was revoked", hint="ask for a new one")
        now = datetime.now(UTC)
        if cached.expires_at is not None and cached.expires_at <= now:
            raise Denied(f"the key expired at {cached.expires_at:%Y-%m-%d %H:%M} UTC", hint="ask for a new one")
        self._used[cached.principal.key_id] = now
        return cached.principal

    def _digest(self, secret: str) -> bytes:
        return hmac.digest(self._hash_key, secret.encode(), "sha256")

    async def _cached(self, key_id: str) -> _Cached | None:
        """The key's row: from the cache while nothing can have changed it unheard, else from the database."""
        cached = self._cache.get(key_id)
        silence_seconds = time.monotonic() - self._heard_at
        if cached is not None and not cached.stale and silence_seconds <= self._outage_seconds_max:
            self._cache.move_to_end(key_id)
            return cached
        read_at, changes = time.monotonic(), self._changes
        try:
            rows = await self._rows.fetch(
                "SELECT id, name, project, digest, expires_at, revoked_at FROM api_key WHERE id = %s", key_id
            )
        except Transient:
            if cached is None or read_at - cached.valid_at > self._outage_seconds_max:
                raise
            return cached
        if not rows:
            self._cache.pop(key_id, None)
            return None
        (row,) = rows
        fresh = _Cached(
            bytes(row["digest"]),
            Principal(row["name"], row["id"], row["project"]),
            row["expires_at"],
            row["revoked_at"] is not None,
            valid_at=read_at,
            stale=self._task is None or self._changes != changes,  # it may have changed while we read
        )
        self._cache[key_id] = fresh
        self._cache.move_to_end(key_id)
        while len(self._cache) > CACHE_KEYS_MAX:
            self._cache.popitem(last=False)
        return fresh

    async def _follow(self) -> None:
        written_at = time.monotonic()
        async with aclosing(self._rows.listen(CHANNEL, beat_seconds=BEAT_SECONDS)) as notifications:
            async for channel, payload in notifications:
                if channel:
                    self._changes += 1
                    self._cache.pop(payload, None)
                elif not payload:
                    self._changes += 1
                    for cached in self._cache.values():
                        cached.stale, cached.valid_at = True, max(cached.valid_at, self._heard_at)
                self._heard_at = time.monotonic()
                if self._used and self._heard_at - written_at >= LAST_USED_SECONDS:
                    written_at = self._heard_at
                    await self._write_last_used()

    async def _write_last_used(self) -> None:
        used, self._used = self._used, {}
        try:
            await self._rows.execute(
                "UPDATE api_key k SET last_used_at = used.at"
                " FROM unnest(%s::text[], %s::timestamptz[]) AS used (id, at) WHERE k.id = used.id",
                [*used], [*used.values()],
            )  # fmt: skip
        except FalajError as error:
            logger.info("cannot write when keys were last used: %s", error)

    async def list(self, project: str | None = None) -> list[KeyInfo]:
        """Keys, newest first, at most ``LIST_MAX``; with ``project``, only its own."""
        rows = await self._rows.fetch(
            "SELECT id, name, project, created_at, expires_at, revoked_at, last_used_at FROM api_key"
            " WHERE %s::text IS NULL OR project = %s ORDER BY created_at DESC, id LIMIT %s",
            project, project, LIST_MAX,
        )  # fmt: skip
        return [KeyInfo(**row) for row in rows]


def _random(characters: int) -> str:
    """That many characters of base 32, five random bits each."""
    return base64.b32encode(secrets.token_bytes(characters)).decode().lower()[:characters]
