"""Admission: the one door. Whole batches, rights, quotas, references, generations, deletion."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from falaj.errors import Conflict, Denied, FalajError, Invalid, LimitExceeded, NotFound
from falaj.region.admission import Admission, bootstrap
from falaj.region.database import Database
from falaj.region.resource import Key, Manifest
from falaj.region.store import Store
from falaj.trust.identity import Principal
from tests.region.declare import agent, bucket, knowledge_base, manifest, project

MEMBER = Principal(name="ci", key_id="k", project="p")


async def actions(admission: Admission, principal: Principal, *manifests: Manifest, **keywords: Any) -> list[str]:
    return [outcome.action for outcome in await admission.apply(principal, manifests, **keywords)]


async def test_a_batch_declares_a_project_and_what_is_in_it(
    admission: Admission, store: Store, admin: Principal
) -> None:
    batch = [agent("a", "k"), knowledge_base("k", "b"), bucket("b"), project("p")]
    assert await actions(admission, admin, *batch) == ["created"] * 4
    resource = await store.get(Key("Bucket", "p", "b"))
    assert (resource.metadata.generation, resource.spec.versioning, resource.status.conditions) == (1, False, [])
    assert await store.referrers(Key("Bucket", "p", "b")) == [Key("KnowledgeBase", "p", "k")]
    (event,) = await store.events(key=Key("Bucket", "p", "b"))
    assert (event.type, event.reason, event.message) == ("Normal", "Created", "by admin")


async def test_the_same_again_changes_nothing(admission: Admission, store: Store, admin: Principal) -> None:
    batch = [project("p"), manifest("Bucket", "b", "p", labels={"team": "x"})]
    await admission.apply(admin, batch)
    assert await actions(admission, admin, *batch) == ["unchanged"] * 2
    explicit = manifest("Bucket", "b", "p", labels={"team": "x"}, versioning=False)
    assert await actions(admission, admin, explicit) == ["unchanged"]
    assert await actions(admission, admin, bucket("b")) == ["updated"], "labels went"
    (updated,) = await admission.apply(admin, [bucket("b", versioning=True)])
    assert (updated.action, updated.generation) == ("updated", 3)
    assert (await store.get(Key("Bucket", "p", "b"))).metadata.generation == 3


async def test_what_get_prints_can_be_applied(admission: Admission, store: Store, admin: Principal) -> None:
    await admission.apply(admin, [project("p"), bucket("b")])
    printed = (await store.get(Key("Bucket", "p", "b"))).as_dict()
    assert await actions(admission, admin, printed) == ["unchanged"]
    printed["spec"]["versioning"] = True
    assert await actions(admission, admin, printed) == ["updated"]
    with pytest.raises(Conflict, match="is at generation 2, the manifest was made from generation 1"):
        await admission.apply(admin, [printed])
    printed["metadata"]["generation"] = 2
    printed["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(Conflict):
        await admission.apply(admin, [printed])


async def test_a_stale_manifest_does_not_raise_the_dead(admission: Admission, admin: Principal) -> None:
    written = {**project("p"), "metadata": {"name": "p", "generation": 4}}
    with pytest.raises(Conflict, match="does not exist"):
        await admission.apply(admin, [written])


async def test_one_bad_manifest_refuses_the_batch(admission: Admission, store: Store, admin: Principal) -> None:
    with pytest.raises(Invalid, match="2 manifests were refused, so none was applied"):
        await admission.apply(admin, [project("p"), bucket("b", versionning=1), bucket("c", size_bytes_max=-1)])
    with pytest.raises(Invalid, match="declared twice, first at document 2") as caught:
        await admission.apply(admin, [project("p"), bucket("b"), bucket("b", versioning=True)])
    assert caught.value.where == "document 3"
    assert await store.find(Key("Project", "", "p")) is None


async def test_a_dry_run_checks_and_writes_nothing(admission: Admission, store: Store, admin: Principal) -> None:
    assert await actions(admission, admin, project("p"), bucket("b"), dry_run=True) == ["created"] * 2
    assert await store.find(Key("Project", "", "p")) is None
    with pytest.raises(NotFound):
        await admission.apply(admin, [bucket("b", "nowhere")], dry_run=True)


async def test_create_refuses_what_exists(admission: Admission, admin: Principal) -> None:
    assert (await admission.create(admin, project("p"))).action == "created"
    with pytest.raises(Conflict, match="exists already"):
        await admission.create(admin, project("p"))


@pytest.mark.parametrize(
    "written",
    [
        project("q"),
        manifest("Site", "s", jurisdiction="AE"),
        bucket("b", "q"),
        manifest("Model", "m", catalogue="multilingual-e5-small"),
    ],
)
async def test_a_project_key_writes_in_its_project_alone(
    admission: Admission, admin: Principal, written: Manifest
) -> None:
    await admission.apply(admin, [project("p"), project("q"), bucket("theirs", "q")])
    assert await actions(admission, MEMBER, bucket("b", "")) == ["created"]
    with pytest.raises(Denied, match="of project 'p'"):
        await admission.apply(MEMBER, [bucket("c"), written])
    for key in (Key("Bucket", "q", "theirs"), Key("Project", "", "p"), Key("Bucket", "q", "not-there")):
        with pytest.raises(Denied):
            await admission.delete(MEMBER, key)


async def test_a_project_must_exist(admission: Admission, admin: Principal) -> None:
    await admission.apply(admin, [project("claims")])
    with pytest.raises(NotFound, match="no project 'claim'") as caught:
        await admission.apply(admin, [bucket("b", "claim")])
    assert caught.value.hint == "did you mean 'claims'?"


async def test_a_quota_holds(admission: Admission, store: Store, admin: Principal) -> None:
    await admission.apply(admin, [project("p", resources_max=3), bucket("a"), bucket("b")])
    with pytest.raises(LimitExceeded, match="holds 2 of at most 3 resources; 2 more"):
        await admission.apply(admin, [bucket("c"), bucket("d")])
    assert await actions(admission, admin, bucket("a", versioning=True), bucket("c")) == ["updated", "created"]
    assert await actions(admission, admin, project("p", resources_max=4), bucket("d")) == ["updated", "created"]
    assert len(await store.list("Bucket", project="p")) == 4


async def test_a_quota_holds_between_admissions_at_once(admission: Admission, store: Store, admin: Principal) -> None:
    await admission.apply(admin, [project("p", resources_max=5)])
    tried = [admission.apply(admin, [bucket(f"b{n}")]) for n in range(20)]
    results = await asyncio.gather(*tried, return_exceptions=True)
    assert sum(isinstance(result, list) for result in results) == 5
    assert all(isinstance(result, list | LimitExceeded) for result in results)
    assert len(await store.list("Bucket")) == 5


async def test_another_projects_things_cannot_be_named(admission: Admission, admin: Principal) -> None:
    await admission.apply(admin, [project("p"), project("q")])
    with pytest.raises(Denied, match="belongs to another project"):
        await admission.apply(admin, [agent("a", "k") | {"spec": {"endpoint": "q/chat", "knowledge": ["k"]}}])
    assert await actions(admission, admin, agent("a", "k")) == ["created"], "the system's may be, and later ones too"


async def test_what_is_used_stays(admission: Admission, store: Store, admin: Principal) -> None:
    users = [knowledge_base(f"k{n:02}", "b") for n in range(12)]
    await admission.apply(admin, [project("p"), bucket("b"), *users])
    with pytest.raises(Conflict) as caught:
        await admission.delete(admin, Key("Bucket", "p", "b"))
    assert caught.value.message.startswith("it is used by KnowledgeBase/p/k00, KnowledgeBase/p/k01")
    assert caught.value.message.endswith("KnowledgeBase/p/k09 and 2 more")
    await admission.apply(admin, [bucket("c"), *(knowledge_base(f"k{n:02}", "c") for n in range(12))])
    outcome = await admission.delete(admin, Key("Bucket", "p", "b"))
    assert (outcome.action, outcome.generation) == ("deleting", 1)
    assert (await store.get(Key("Bucket", "p", "b"))).deleting
    assert (await admission.delete(admin, Key("Bucket", "p", "b"))).action == "deleting"


async def test_what_goes_is_left_alone(admission: Admission, admin: Principal) -> None:
    await admission.apply(admin, [project("p"), bucket("b"), project("q")])
    await admission.delete(admin, Key("Bucket", "p", "b"))
    with pytest.raises(Conflict, match="is being deleted"):
        await admission.apply(admin, [bucket("b")])
    with pytest.raises(Conflict, match="names Bucket/p/b, which is being deleted"):
        await admission.apply(admin, [knowledge_base("k", "b")])
    await admission.delete(admin, Key("Project", "", "q"))
    with pytest.raises(Conflict, match="project 'q' is being deleted"):
        await admission.apply(admin, [bucket("b", "q")])


async def test_a_project_goes_only_empty(admission: Admission, admin: Principal) -> None:
    await admission.apply(admin, [project("p"), bucket("a"), bucket("b"), knowledge_base("k", "a")])
    with pytest.raises(Conflict, match="2 Bucket, 1 KnowledgeBase"):
        await admission.delete(admin, Key("Project", "", "p"))
    for key in (Key("KnowledgeBase", "p", "k"), Key("Bucket", "p", "a"), Key("Bucket", "p", "b")):
        await admission.delete(admin, key)
    assert (await admission.delete(admin, Key("Project", "", "p"))).action == "deleting", "its contents are going too"


async def test_the_system_project_and_a_running_site_stay(
    admission: Admission, database: Database, admin: Principal
) -> None:
    with pytest.raises(Conflict, match="belongs to the region"):
        await admission.delete(admin, Key("Project", "", "system"))
    await database.execute(
        """UPDATE resource SET status = '{"conditions": [{"type": "Ready", "status": "True"}]}' WHERE kind = 'Site'"""
    )
    with pytest.raises(Conflict, match="is running"):
        await admission.delete(admin, Key("Site", "", "local-a"))


async def test_deleting_what_is_not_there_offers_the_nearest(admission: Admission, admin: Principal) -> None:
    await admission.apply(admin, [project("p"), bucket("policies")])
    with pytest.raises(NotFound, match="no Bucket 'polices' in project 'p'") as caught:
        await admission.delete(admin, Key("Bucket", "p", "polices"))
    assert caught.value.hint == "did you mean 'policies'?"


async def test_bootstrap_again_keeps_what_the_operator_changed(
    admission: Admission, store: Store, admin: Principal
) -> None:
    await admission.apply(admin, [manifest("Site", "local-a", labels={"room": "2"}, jurisdiction="AE")])
    await admission.apply(admin, [project("system", resources_max=7)])
    await bootstrap(admission, store, "local-a", "QA")
    site, system = await store.get(Key("Site", "", "local-a")), await store.get(Key("Project", "", "system"))
    assert (site.spec.jurisdiction, site.metadata.labels, system.spec.resources_max) == ("QA", {"room": "2"}, 7)


async def test_text_that_postgres_cannot_hold_is_invalid(admission: Admission, admin: Principal) -> None:
    with pytest.raises(Invalid):
        await admission.apply(admin, [project("p", description="a\0b")])


async def test_too_many_manifests(admission: Admission, admin: Principal) -> None:
    with pytest.raises(LimitExceeded, match="2,001 manifests; at most 2,000"):
        await admission.apply(admin, [bucket(f"b{n}") for n in range(2001)])


async def test_a_thousand_buckets_are_admitted_quickly(admission: Admission, store: Store, admin: Principal) -> None:
    batch = [project("p"), *(bucket(f"b{n:04}") for n in range(1000))]
    started = time.monotonic()
    await admission.apply(admin, batch)
    assert time.monotonic() - started < 3
    started = time.monotonic()
    assert {outcome.action for outcome in await admission.apply(admin, batch)} == {"unchanged"}
    assert time.monotonic() - started < 3
    assert (await store.counts())["Bucket"] == {"total": 1000, "ready": 0}


async def test_admissions_that_overlap_do_not_deadlock(admission: Admission, admin: Principal) -> None:
    names = [f"b{n}" for n in range(8)]
    await admission.apply(admin, [project("p"), *(bucket(name) for name in names)])
    tried = [
        admission.apply(admin, [bucket(name, size_bytes_max=n + 1) for name in (names if n % 2 else names[::-1])])
        for n in range(10)
    ]
    results = await asyncio.gather(*tried, return_exceptions=True)
    assert not [result for result in results if isinstance(result, FalajError)]
