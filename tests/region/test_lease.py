"""Leases: one holder at a time, tokens that only grow, nothing written by who lost its lease, no wake-up lost.

The invariants are checked by a random walk of two holders over a real Postgres (``TestLeases``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from falaj.errors import Conflict
from falaj.region.admission import Admission, bootstrap
from falaj.region.database import Database
from falaj.region.events import Happening
from falaj.region.lease import Claim, Finished, Leases
from falaj.region.resource import Key
from falaj.region.store import Store
from falaj.trust.identity import Principal
from tests.conftest import KINDS
from tests.postgres import PostgresServer
from tests.region.declare import agent, bucket, knowledge_base, project

ADMIN = Principal(name="admin", key_id="", project=None)
B = Key("Bucket", "p", "b")
KINDS_NAMES = [kind.name for kind in KINDS]


def told(claim: Claim, message: str) -> dict[str, Any]:
    status = claim.resource.status.model_copy(deep=True)
    status.set_condition("True", "Fine", message)
    status.observedGeneration = claim.resource.metadata.generation
    return dict(status.model_dump(mode="json"))


@pytest.fixture
def leases(database: Database, store: Store) -> tuple[Leases, Leases]:
    return tuple(Leases(database, store, holder=name, lease_seconds=30) for name in ("one", "two"))  # type: ignore[return-value]


async def declared(admission: Admission, leases: Leases, *more: Any) -> None:
    """A bucket ``p/b`` that alone is due."""
    await admission.apply(ADMIN, [project("p"), bucket("b"), *more])
    while claims := await leases.claim(KINDS_NAMES, 100):
        await leases.release([Finished(claim, None) for claim in claims])


async def expire(database: Database) -> None:
    await database.execute("UPDATE lease SET expires_at = now() - interval '1 second'")


async def test_what_is_held_is_not_claimed_again(
    admission: Admission, store: Store, leases: tuple[Leases, Leases]
) -> None:
    one, two = leases
    await declared(admission, one)
    assert await one.claim(KINDS_NAMES, 10) == [], "nothing is due"
    await store.touch(B)
    assert await one.claim(["Agent"], 10) == [], "not of these kinds"
    (claim,) = await one.claim(KINDS_NAMES, 10)
    assert claim.resource.key == B
    assert await two.claim(KINDS_NAMES, 10) == []
    assert await two.next_due_seconds(KINDS_NAMES, 60) == pytest.approx(30, abs=2), "when the lease ends"
    assert await one.release([Finished(claim, 7.0, failures=3)]) == []
    assert await two.next_due_seconds(KINDS_NAMES, 60) == pytest.approx(7, abs=2)
    assert await two.next_due_seconds(KINDS_NAMES, 5) == 5


async def test_claims_at_once_share_the_work(
    admission: Admission, leases: tuple[Leases, Leases], admin: Principal
) -> None:
    await admission.apply(admin, [project("p"), *(bucket(f"b{n}") for n in range(100))])
    claimed = await asyncio.gather(*(leases[n % 2].claim(["Bucket"], 7) for n in range(20)))
    keys = [claim.resource.key for claims in claimed for claim in claims]
    assert len(keys) == len(set(keys))
    tokens = [claim.token for claims in claimed for claim in claims]
    assert len(tokens) == len(set(tokens))


async def test_who_lost_its_lease_writes_nothing(
    admission: Admission, store: Store, database: Database, leases: tuple[Leases, Leases]
) -> None:
    one, two = leases
    await declared(admission, one)
    await store.touch(B)
    (old,) = await one.claim(KINDS_NAMES, 10)
    await expire(database)
    (new,) = await two.claim(KINDS_NAMES, 10)
    assert new.token > old.token
    assert await one.renew([old]) == {old.token}
    with pytest.raises(Conflict, match="was lost"):
        await one.save(old, told(old, "stale"), [Happening(B, "Stale", "m")])

    async def further_table() -> None:
        async with database.transaction() as connection:
            await connection.execute("UPDATE resource SET labels = '{\"stale\": \"1\"}' WHERE name = 'b'")
            await one.prove(connection, B, old.token)

    with pytest.raises(Conflict):
        await further_table()
    await one.release(
        [Finished(old, 0.0, status=told(old, "stale"), gone=True, happenings=[Happening(B, "Stale", "")])]
    )
    found = await store.get(B)
    assert found.status.condition() is None
    assert found.metadata.labels == {}
    assert "Stale" not in {event.reason for event in await store.events(key=B)}
    await two.release([Finished(new, None, status=told(new, "fresh"))])
    assert (await store.get(B)).status.condition().message == "fresh"


async def test_a_renewed_lease_lasts(
    admission: Admission, store: Store, database: Database, leases: tuple[Leases, Leases]
) -> None:
    one, two = leases
    await declared(admission, one)
    await store.touch(B)
    (claim,) = await one.claim(KINDS_NAMES, 10)
    claim.deadline = 0.0
    await database.execute("UPDATE lease SET expires_at = now() + interval '100 milliseconds'")
    assert await one.renew([claim]) == set()
    assert claim.deadline > time.monotonic() + 20
    await asyncio.sleep(0.2)
    assert await two.claim(KINDS_NAMES, 10) == []


async def test_a_change_while_held_is_not_lost(
    admission: Admission, store: Store, leases: tuple[Leases, Leases]
) -> None:
    one, _ = leases
    await declared(admission, one)
    await store.touch(B)
    (claim,) = await one.claim(KINDS_NAMES, 10)
    await admission.apply(ADMIN, [bucket("b", versioning=True)])
    assert await one.release([Finished(claim, None)]) != [], "due at once"
    (claim,) = await one.claim(KINDS_NAMES, 10)
    assert claim.resource.metadata.generation == 2
    await store.touch(B)
    assert await one.release([Finished(claim, 3600.0)]) != []


async def test_news_wakes_those_who_name_it(admission: Admission, store: Store, leases: tuple[Leases, Leases]) -> None:
    one, _ = leases
    await declared(admission, one, knowledge_base("k", "b"), agent("a", "k"))
    await store.touch(B)
    (claim,) = await one.claim(KINDS_NAMES, 10)
    await one.release([Finished(claim, None)])
    assert await one.claim(KINDS_NAMES, 10) == [], "no news"
    await store.touch(B)
    (claim,) = await one.claim(KINDS_NAMES, 10)
    await one.save(claim, told(claim, "progress"))
    (woken,) = await one.claim(KINDS_NAMES, 10)
    assert woken.resource.key.name == "k"
    await one.release([Finished(woken, None), Finished(claim, None, status=told(claim, "done"))])
    assert [c.resource.key.name for c in await one.claim(KINDS_NAMES, 10)] == ["k"]


async def test_deletion_goes_from_the_users_down(
    admission: Admission, store: Store, leases: tuple[Leases, Leases]
) -> None:
    one, _ = leases
    await declared(admission, one, knowledge_base("k", "b"))
    for key in (Key("KnowledgeBase", "p", "k"), B, Key("Project", "", "p")):
        await admission.delete(ADMIN, key)
    claims = {claim.resource.key.name: claim for claim in await one.claim(KINDS_NAMES, 10)}
    assert {name: claim.in_use for name, claim in claims.items()} == {"k": False, "b": True, "p": True}
    await one.release([Finished(claims["b"], None), Finished(claims["p"], None)])
    await one.release([Finished(claims["k"], None, gone=True)])
    claims = {claim.resource.key.name: claim for claim in await one.claim(KINDS_NAMES, 10)}
    assert {name: claim.in_use for name, claim in claims.items()} == {"b": False, "p": True}
    await one.release([Finished(claims["p"], None), Finished(claims["b"], None, gone=True)])
    (claim,) = await one.claim(KINDS_NAMES, 10)
    assert (claim.resource.key.name, claim.in_use) == ("p", False)
    await one.release([Finished(claim, None, gone=True)])
    assert [r.metadata.name for r in await store.list("Project")] == ["system"]


async def test_gone_is_not_believed_of_what_stays(
    admission: Admission, store: Store, leases: tuple[Leases, Leases]
) -> None:
    one, _ = leases
    await declared(admission, one)
    await store.touch(B)
    (claim,) = await one.claim(KINDS_NAMES, 10)
    await one.release([Finished(claim, None, gone=True)])
    assert await store.find(B) is not None


async def test_one_unreadable_row_does_not_stop_the_others(
    admission: Admission, store: Store, database: Database, leases: tuple[Leases, Leases]
) -> None:
    await declared(admission, leases[0], bucket("c"))
    await database.execute("""UPDATE resource SET spec = '{"was": 1}' WHERE name = 'c'""")
    await store.touch(B, Key("Bucket", "p", "c"))
    assert [claim.resource.key for claim in await leases[0].claim(KINDS_NAMES, 10)] == [B]


class Walk(RuleBasedStateMachine):
    """Two holders, one resource; claims, writes, ends of leases, changes, deletions in any order."""

    server: PostgresServer
    numbers = iter(range(1_000_000))

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.database_name = f"walk_{next(self.numbers)}"
        self.claims: list[Claim] = []  # every claim ever made and not yet released: also the lost ones
        self.highest = 0
        self.generation = 0
        self.writer_token = 0  # the token under which the status was written last

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 30))

    @initialize()
    def begin(self) -> None:
        self.server.admin(f"CREATE DATABASE {self.database_name} TEMPLATE template_falaj")
        self.database = Database(self.server.url(self.database_name), connections_max=2)
        self.store = Store(self.database, KINDS)
        self.admission = Admission(self.database, self.store)
        self.holders = [Leases(self.database, self.store, holder=f"h{n}", lease_seconds=3600) for n in range(2)]
        self.do(self.database.open())
        self.do(bootstrap(self.admission, self.store, "local-a", "AE"))
        self.do(self.admission.apply(ADMIN, [project("p"), bucket("b")]))
        self.generation = 1

    def live(self) -> int | None:
        rows = self.do(self.database.fetch("SELECT token FROM lease WHERE name = 'b' AND expires_at > now()"))
        return rows[0]["token"] if rows else None

    def held(self) -> int | None:
        """The token in the table, also after its end: nobody else has taken over yet."""
        rows = self.do(self.database.fetch("SELECT token FROM lease WHERE name = 'b'"))
        return rows[0]["token"] if rows else None

    @rule(holder=st.integers(0, 1))
    def claim(self, holder: int) -> None:
        before = self.live()
        claims = self.do(self.holders[holder].claim(["Bucket"], 10))
        assert not (claims and before), "a live lease was taken away"
        for claim in claims:
            assert claim.token > self.highest
            assert claim.resource.metadata.generation == self.generation
            self.highest = claim.token
            self.claims.append(claim)

    @rule(holder=st.integers(0, 1))
    def take_over(self, holder: int) -> None:
        self.time_passes()
        self.claim(holder)

    @rule(size=st.integers(1, 3))
    def change(self, size: int) -> None:
        try:
            (outcome,) = self.do(self.admission.apply(ADMIN, [bucket("b", size_bytes_max=size)]))
        except Conflict:
            assert self.do(self.store.get(B)).deleting
            return
        assert outcome.generation == self.generation + (outcome.action != "unchanged")
        self.generation = outcome.generation
        assert self.due() or self.live() is not None or outcome.action == "unchanged"

    def due(self) -> bool:
        return bool(
            self.do(
                self.database.fetch("SELECT 1 FROM resource WHERE name = 'b' AND reconcile_at <= clock_timestamp()")
            )
        )

    @rule(pick=st.randoms(use_true_random=False))
    def save(self, pick: Any) -> None:
        if not self.claims:
            return
        claim = pick.choice(self.claims)
        right = self.held() == claim.token
        try:
            self.do(self.holders[0].save(claim, told(claim, str(claim.token))))
        except Conflict:
            assert not right
        else:
            assert right, "a stale holder wrote"
            self.writer_token = claim.token

    @rule(pick=st.randoms(use_true_random=False), gone=st.booleans())
    def release(self, pick: Any, gone: bool) -> None:
        if not self.claims:
            return
        claim = pick.choice(self.claims)
        before = self.held()
        right = before == claim.token
        resource = self.do(self.store.find(B))
        woken = right and self.do(self.database.fetch("SELECT wakes FROM resource WHERE name = 'b'"))[0]["wakes"]
        finished = Finished(claim, None, status=told(claim, str(claim.token)), gone=gone)
        self.do(self.holders[1].release([finished]))
        self.claims.remove(claim)
        if not right:
            assert self.held() == before, "a stale holder took the lease away"
            return
        if gone and resource.deleting:
            assert self.do(self.store.find(B)) is None
            self.generation, self.writer_token = 0, 0
        else:
            self.writer_token = claim.token if not gone else self.writer_token
            assert self.due() == (woken != claim.wakes), "a wake-up was lost, or one came from nowhere"
            assert self.held() is None

    @rule()
    def time_passes(self) -> None:
        self.do(expire(self.database))

    @rule()
    def touch(self) -> None:
        self.do(self.store.touch(B))
        assert self.due() or self.do(self.store.find(B)) is None

    @rule()
    def delete(self) -> None:
        if self.do(self.store.find(B)) is not None:
            self.do(self.admission.delete(ADMIN, B))

    @rule(pick=st.randoms(use_true_random=False))
    def renew(self, pick: Any) -> None:
        if self.claims:
            claim = pick.choice(self.claims)
            right = self.held() == claim.token
            assert (self.do(self.holders[0].renew([claim])) == set()) == right

    @invariant()
    def what_is_written_is_true(self) -> None:
        if not self.generation:
            return
        found = self.do(self.store.get(B))
        assert found.metadata.generation == self.generation
        assert found.status.observedGeneration <= found.metadata.generation
        condition = found.status.condition()
        assert (int(condition.message) if condition else 0) == self.writer_token

    def teardown(self) -> None:
        self.do(self.database.close())
        self.loop.close()
        self.server.admin(f"DROP DATABASE {self.database_name} WITH (FORCE)")


@pytest.fixture(scope="class")
def walked(postgres: PostgresServer) -> None:
    Walk.server = postgres


@pytest.mark.usefixtures("walked")
class TestLeases(Walk.TestCase):  # type: ignore[misc]
    settings = settings(
        max_examples=30,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],  # shrinking a walk over a database takes minutes
        suppress_health_check=list(HealthCheck),
    )
