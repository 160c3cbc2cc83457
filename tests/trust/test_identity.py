"""API keys: recognised, refused, revoked at once, and known keys through an outage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.errors import Denied, Invalid, NotFound, Transient
from falaj.region.database import Database, migrate
from falaj.trust import identity
from falaj.trust.identity import Keys, Principal
from tests.postgres import PostgresServer

HASH_KEY = bytes(range(32))


@pytest.fixture
async def keys(database: Database) -> AsyncIterator[Keys]:
    """Keys that hear of changes."""
    opened = Keys(database, HASH_KEY)
    await opened.start()
    await heard(opened)
    yield opened
    await opened.close()


async def heard(keys: Keys) -> None:
    async with asyncio.timeout(10):
        while keys._heard_at == float("-inf"):
            await asyncio.sleep(0.01)


async def until_denied(keys: Keys, secret: str, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                await keys.principal(secret)
            except Denied:
                return
            await asyncio.sleep(0.005)


async def test_a_key_is_recognised_and_shown_once(keys: Keys, database: Database) -> None:
    info, secret = await keys.create("ci", project="claims")
    assert secret.startswith(f"flj_{info.id}_")
    assert await keys.principal(secret) == Principal("ci", info.id, "claims")
    (row,) = await database.fetch("SELECT * FROM api_key")
    assert secret.split("_")[2] not in str(row)
    assert len(row["digest"]) == 32
    (listed,) = await keys.list()
    assert listed == info
    assert "digest" not in listed.as_dict()
    assert await keys.list(project="other") == []


async def test_wrong_and_unknown_look_the_same(keys: Keys) -> None:
    _, secret = await keys.create("admin")
    known, wrong = secret.split("_"), []
    for candidate in ("", "x", "flj__", secret[:-1], secret + "a", f"flj_{known[1]}_{'a' * 52}",
                      f"flj_{'a' * 12}_{known[2]}", secret.upper(), " " + secret, "flj_" + "a" * 100_000):  # fmt: skip
        with pytest.raises(Denied) as caught:
            await keys.principal(candidate)
        wrong.append(str(caught.value))
    assert len(set(wrong)) == 1
    assert secret.split("_")[2] not in wrong[0]


@given(st.text(max_size=80))
def test_the_form_is_checked_before_the_database(text: str) -> None:
    async def check() -> None:
        with pytest.raises(Denied):
            await Keys(None, HASH_KEY).principal("key " + text)  # type: ignore[arg-type]

    asyncio.run(check())


async def test_another_hash_key_recognises_nothing(keys: Keys, database: Database) -> None:
    _, secret = await keys.create("admin")
    with pytest.raises(Denied):
        await Keys(database, bytes(32)).principal(secret)
    with pytest.raises(Invalid):
        Keys(database, b"short")


async def test_a_revoked_key_is_refused_everywhere_at_once(keys: Keys, database: Database) -> None:
    info, secret = await keys.create("ci")
    elsewhere = Keys(database, HASH_KEY)
    await elsewhere.start()
    try:
        await heard(elsewhere)
        assert (await elsewhere.principal(secret)).name == "ci"
        await elsewhere.principal(secret)
        await keys.revoke(info.id)
        with pytest.raises(Denied, match="revoked"):
            await keys.principal(secret)
        await until_denied(elsewhere, secret, seconds=2)
    finally:
        await elsewhere.close()
    await keys.revoke(info.id)
    (listed,) = await keys.list()
    assert listed.revoked_at is not None
    with pytest.raises(NotFound):
        await keys.revoke("nothing")


async def test_a_projects_keys_go_with_it(keys: Keys) -> None:
    _, mine = await keys.create("a", project="p")
    _, other = await keys.create("b", project="q")
    await keys.principal(mine)
    assert await keys.revoke_project("p") == 1
    await until_denied(keys, mine)
    assert (await keys.principal(other)).project == "q"


async def test_an_expired_key_is_refused(keys: Keys) -> None:
    _, old = await keys.create("old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(Denied, match="expired at"):
        await keys.principal(old)
    _, soon = await keys.create("soon", expires_at=datetime.now(UTC) + timedelta(seconds=0.5))
    await keys.principal(soon)
    await asyncio.sleep(0.6)
    with pytest.raises(Denied, match="expired"):
        await keys.principal(soon)


async def test_known_keys_do_not_ask_the_database(keys: Keys, database: Database) -> None:
    _, secret = await keys.create("ci")
    await keys.principal(secret)
    await asyncio.sleep(0.1)
    await keys.principal(secret)
    fetched = 0
    fetch = database.fetch

    async def counted(*arguments: object) -> object:
        nonlocal fetched
        fetched += 1
        return await fetch(*arguments)  # type: ignore[arg-type]

    database.fetch = counted  # type: ignore[assignment,method-assign]
    for _ in range(100):
        await keys.principal(secret)
    assert fetched == 0


async def test_without_a_listener_every_call_asks(database: Database) -> None:
    keys = Keys(database, HASH_KEY)
    info, secret = await keys.create("ci")
    await keys.principal(secret)
    await database.execute("UPDATE api_key SET revoked_at = now() WHERE id = %s", info.id)
    with pytest.raises(Denied):
        await keys.principal(secret)


async def test_the_cache_is_bounded(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "CACHE_KEYS_MAX", 5)
    secrets = [(await keys.create(f"k{n}"))[1] for n in range(20)]
    for secret in secrets:
        await keys.principal(secret)
    assert len(keys._cache) == 5


async def test_a_key_from_a_file_can_be_registered(keys: Keys) -> None:
    _, secret = await keys.create("made elsewhere")
    first = await keys.register(secret, "admin")
    assert (await keys.register(secret, "admin")).id == first.id
    assert (await keys.principal(secret)).project is None
    for bad in ("flj_short_x", "", "sk-123"):
        with pytest.raises(Invalid, match="not a key"):
            await keys.register(bad, "admin")
    for name in ("", "  ", "x" * 101):
        with pytest.raises(Invalid, match="name"):
            await keys.create(name)


async def test_when_a_key_was_used_is_written_lazily(database: Database) -> None:
    keys = Keys(database, HASH_KEY)
    await keys.start()
    _, secret = await keys.create("ci")
    await keys.principal(secret)
    assert (await keys.list())[0].last_used_at is None
    await keys.close()
    assert (await keys.list())[0].last_used_at is not None


async def test_known_keys_work_through_an_outage_for_a_bounded_time(own_postgres: PostgresServer) -> None:
    async with Database(own_postgres.url("postgres"), wait_seconds=2) as database:
        await migrate(database)
        keys = Keys(database, HASH_KEY, outage_seconds_max=6.0)
        await keys.start()
        try:
            await heard(keys)
            info, secret = await keys.create("ci")
            _, never_used = await keys.create("never used")
            await asyncio.sleep(0.2)
            await keys.principal(secret)
            own_postgres.kill()
            await asyncio.sleep(0.3)
            started = time.monotonic()
            assert (await keys.principal(secret)).name == "ci"
            assert time.monotonic() - started < 0.1, "the hot path does not wait for Postgres"
            with pytest.raises(Transient):
                await keys.principal(never_used)
            with pytest.raises(Denied):
                await keys.principal(f"flj_{info.id}_{'a' * 52}")
            await asyncio.sleep(6.0)
            with pytest.raises(Transient):
                await keys.principal(secret)
            own_postgres.start()
            assert (await keys.principal(secret)).name == "ci"
            await database.execute("UPDATE api_key SET revoked_at = now() WHERE id = %s", info.id)
            await until_denied(keys, secret)
        finally:
            await keys.close()
