"""Objects by the names that people use, with the limits and errors that they meet."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.errors import Conflict, Invalid, LimitExceeded, NotFound, Transient
from falaj.region.admission import Admission
from falaj.region.database import Database
from falaj.region.resource import Key
from falaj.region.snapshot import Snapshot
from falaj.region.store import Store
from falaj.services.storage.objects import Objects, check_key, s3_bucket
from falaj.trust.identity import Principal
from tests.region.declare import bucket


class Told:
    """Whom a change of objects was told about."""

    def __init__(self) -> None:
        self.keys: list[Key] = []

    async def __call__(self, key: Key) -> None:
        self.keys.append(key)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def opened(
    objects: SeaweedStore,
    database: Database,
    store: Store,
    admission: Admission,
    admin: Principal,
    name: str,
    told: Told,
) -> AsyncIterator[Objects]:
    """Objects of the buckets ``docs`` (made), ``small`` (made, 1,000 bytes) and ``later`` (declared only)."""
    await admission.apply(
        admin, [bucket("docs", name), bucket("small", name, size_bytes_max=1000), bucket("later", name)]
    )
    for each in ("docs", "small"):
        await objects.create_bucket(s3_bucket(name, each))
    snapshot = Snapshot(database, store)
    await snapshot.start()
    yield Objects(objects, snapshot, database, changed=told)
    await snapshot.close()


async def test_put_get_list_delete(opened: Objects, name: str, told: Told) -> None:
    info = await opened.put(name, "docs", "دليل/المنطقة.md", "# المنطقة".encode(), "text/markdown")
    assert (info.key, info.size_bytes) == ("دليل/المنطقة.md", len("# المنطقة".encode()))
    await opened.put(name, "docs", "b.txt", b"two", "text/plain")
    assert await opened.get(name, "docs", "دليل/المنطقة.md") == "# المنطقة".encode()
    assert [item.key async for item in opened.list(name, "docs")] == ["b.txt", "دليل/المنطقة.md"]
    assert [item.key async for item in opened.list(name, "docs", "دليل/")] == ["دليل/المنطقة.md"]
    await opened.delete(name, "docs", "b.txt")
    await opened.delete(name, "docs", "b.txt")
    assert [item.key async for item in opened.list(name, "docs")] == ["دليل/المنطقة.md"]
    assert set(told.keys) == {Key("Bucket", name, "docs")}


async def test_what_is_not_there(opened: Objects, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        await opened.get(name, "dosc", "a")
    assert "docs" in caught.value.hint
    with pytest.raises(NotFound) as caught:
        await opened.get(name, "docs", "missing.md")
    assert "missing.md" in caught.value.message
    with pytest.raises(NotFound):
        await opened.get("elsewhere", "docs", "a")


async def test_a_bucket_that_is_declared_but_not_made(opened: Objects, name: str) -> None:
    with pytest.raises(Transient):
        await opened.put(name, "later", "a.txt", b"x", "")
    with pytest.raises(Transient):
        [item async for item in opened.list(name, "later")]


async def test_a_bucket_that_is_being_deleted_takes_nothing(
    opened: Objects, database: Database, store: Store, admission: Admission, admin: Principal, objects: SeaweedStore,
    name: str,
) -> None:  # fmt: skip
    await admission.delete(admin, Key("Bucket", name, "docs"))
    snapshot = Snapshot(database, store)
    await snapshot.start()
    with pytest.raises(Conflict):
        await Objects(objects, snapshot, database).put(name, "docs", "a.txt", b"x", "")
    await snapshot.close()


async def test_a_bucket_has_a_size(opened: Objects, name: str) -> None:
    await opened.put(name, "small", "a", bytes(600), "")
    with pytest.raises(LimitExceeded) as caught:
        await opened.put(name, "small", "b", bytes(401), "")
    assert "1,001 bytes" in caught.value.message
    await opened.put(name, "small", "a", bytes(900), "")  # what is replaced does not count twice
    await opened.put(name, "small", "b", bytes(100), "")


async def test_credentials_come_with_the_first_bucket(opened: Objects, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        await opened.credentials(name)
    assert "first bucket" in caught.value.hint


@pytest.mark.parametrize(
    "key", ["", "/a", "a//b", "a/", "../a", "a/./b", "a\nb", "a\x00", "x" * 1025, "ش" * 513, "\ud800"]
)
def test_keys_that_cannot_name_an_object(key: str) -> None:
    with pytest.raises(Invalid):
        check_key(key)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1,
                        max_size=20).filter(lambda part: part not in {".", ".."}), min_size=1, max_size=5))  # fmt: skip
def test_any_other_key_can(parts: list[str]) -> None:
    assert check_key("/".join(parts)) == "/".join(parts)
