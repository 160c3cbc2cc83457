"""Store: reading, paging, and asking for a look."""

from __future__ import annotations

import pytest

from falaj.errors import Invalid, NotFound, Terminal
from falaj.region.admission import Admission
from falaj.region.database import Database
from falaj.region.resource import Key
from falaj.region.store import Store
from falaj.trust.identity import Principal
from tests.region.declare import agent, bucket, knowledge_base, manifest, project


async def due(database: Database) -> set[str]:
    rows = await database.fetch("SELECT name FROM resource WHERE reconcile_at <= now()")
    return {row["name"] for row in rows}


async def test_get_offers_the_nearest(admission: Admission, store: Store, admin: Principal) -> None:
    await admission.apply(admin, [project("p"), bucket("policies"), bucket("claims")])
    with pytest.raises(NotFound) as caught:
        await store.get(Key("Bucket", "p", "polices"))
    assert str(caught.value) == "there is no Bucket 'polices' in project 'p' (did you mean 'policies'?)"
    assert await store.find(Key("Bucket", "", "policies")) is None


async def test_list_pages_in_order_and_filters(admission: Admission, store: Store, admin: Principal) -> None:
    batch = [project("a"), project("b"), *(bucket(f"n{n}", p) for p in "ab" for n in range(5))]
    await admission.apply(admin, [*batch, manifest("Bucket", "x", "a", labels={"team": "t", "tier": "1"})])
    names: list[str] = []
    sizes, after = [], ("", "")
    while page := await store.list("buckets", limit=4, after=after):
        names += [f"{r.metadata.project}/{r.metadata.name}" for r in page]
        sizes.append(len(page))
        after = (page[-1].metadata.project, page[-1].metadata.name)
    assert sizes == [4, 4, 3]
    assert names == sorted(names)
    assert len(await store.list("Bucket", project="b")) == 5
    assert [r.metadata.name for r in await store.list("Bucket", labels={"team": "t"})] == ["x"]
    assert await store.list("Bucket", labels={"team": "t", "tier": "2"}) == []
    assert len(await store.list("Bucket", limit=10**9)) == 11
    with pytest.raises(Invalid, match="no kind 'Buckt'"):
        await store.list("Buckt")


async def test_counts_tell_every_kind(admission: Admission, store: Store, database: Database, admin: Principal) -> None:
    await admission.apply(admin, [project("p"), bucket("a"), bucket("b")])
    await database.execute(
        """UPDATE resource SET status = '{"conditions": [{"type": "Ready", "status": "True"}]}' WHERE name = 'a'"""
    )
    counts = await store.counts()
    assert counts["Bucket"] == {"total": 2, "ready": 1}
    assert counts["Agent"] == {"total": 0, "ready": 0}


async def test_touching_makes_due(admission: Admission, store: Store, database: Database, admin: Principal) -> None:
    await admission.apply(admin, [project("p"), bucket("b"), knowledge_base("k", "b"), agent("a", "k")])
    await database.execute("UPDATE resource SET reconcile_at = NULL")
    await store.touch()
    await store.touch(Key("Bucket", "p", "not-there"))
    assert await due(database) == set()
    await store.touch_referrers(Key("Bucket", "p", "b"))
    assert await due(database) == {"k"}
    await store.touch(Key("Bucket", "p", "b"), Key("Agent", "p", "a"), Key("Bucket", "p", "b"))
    assert await due(database) == {"k", "b", "a"}


async def test_a_spec_of_another_version_is_told(
    admission: Admission, store: Store, database: Database, admin: Principal
) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    await database.execute("""UPDATE resource SET status = '{"conditions": 7}' WHERE name = 'b'""")
    assert (await store.get(Key("Bucket", "p", "b"))).status.conditions == [], "a status is observed again"
    await database.execute("""UPDATE resource SET spec = '{"was": 1}' WHERE name = 'b'""")
    with pytest.raises(Terminal, match="does not fit this version"):
        await store.get(Key("Bucket", "p", "b"))
