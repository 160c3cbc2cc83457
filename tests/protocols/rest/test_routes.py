"""Resources over REST against a real Postgres; a project's key sees its own project and nothing of others."""

import asyncio

import pytest

from tests.protocols.conftest import Wires, manifest

API = "/falaj/v1"
CLAIMS = f"{API}/projects/claims"
OTHER = f"{API}/projects/other"


async def test_apply_admits_all_or_nothing_and_says_what_it_did(wires: Wires) -> None:
    good, bad = manifest("Bucket", "a", "claims"), manifest("Bucket", "b", "claims", versionning=True)
    refused = await wires.apply(good, bad)
    assert refused.status == 400
    assert "versioning" in str(refused.json()["error"])
    assert (await wires.call("GET", f"{CLAIMS}/buckets")).json()["items"] == []
    done = await wires.apply(good)
    assert done.json() == {
        "results": [{"kind": "Bucket", "project": "claims", "name": "a", "action": "created", "generation": 1}]
    }
    assert (await wires.apply(good)).json()["results"][0]["action"] == "unchanged"


async def test_a_dry_run_changes_nothing(wires: Wires) -> None:
    body = b"apiVersion: falaj/v1\nkind: Bucket\nmetadata: {project: claims, name: a}"
    answer = await wires.call("POST", f"{API}/apply?dry_run=true", body)
    assert answer.json()["results"][0]["action"] == "created"
    assert (await wires.call("GET", f"{CLAIMS}/buckets/a")).status == 404


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"kind: [", 400, "body:2:1"),
        (b"", 400, "no manifest"),
        (b"\xff\xfe", 400, "UTF-8"),
        (b"a: &x [1]\nb: *x", 400, "alias"),
        (b"x" * (2 << 20), 413, "1,048,576"),
        (b"x" * (10 << 20), 413, "1,048,576"),
    ],
)
async def test_bodies_that_are_no_manifests_are_refused(wires: Wires, body: bytes, status: int, says: str) -> None:
    answer = await wires.call("POST", f"{API}/apply", body)
    assert answer.status == status
    assert says in str(answer.json()["error"])


async def test_one_resource_is_put_read_changed_and_deleted(wires: Wires) -> None:
    path = f"{CLAIMS}/buckets/policies"
    made = await wires.call("PUT", path, {"spec": {"versioning": False}})
    assert made.status == 201
    assert made.json()["metadata"]["generation"] == 1
    changed = await wires.call("PUT", path, {"spec": {"versioning": True}})
    assert (changed.status, changed.json()["metadata"]["generation"]) == (200, 2)
    stale = await wires.call("PUT", path, {"metadata": {"generation": 1}, "spec": {"versioning": False}})
    assert stale.status == 409
    assert (await wires.call("GET", path)).json()["spec"]["versioning"] is True
    deleted = await wires.call("DELETE", path)
    assert (deleted.status, deleted.json()["action"]) == (202, "deleting")
    assert (await wires.call("GET", path)).json()["metadata"]["deletionRequestedAt"]


async def test_post_creates_and_does_not_replace(wires: Wires) -> None:
    body = {"metadata": {"name": "policies"}, "spec": {}}
    assert (await wires.call("POST", f"{CLAIMS}/buckets", body)).status == 201
    assert (await wires.call("POST", f"{CLAIMS}/buckets", body)).status == 409


async def test_what_the_path_says_cannot_be_contradicted(wires: Wires) -> None:
    answer = await wires.call("PUT", f"{CLAIMS}/buckets/a", {"metadata": {"project": "other"}})
    assert answer.status == 400
    assert answer.json()["error"]["where"] == "metadata.project"


async def test_listings_are_paged_and_selected_by_label(wires: Wires) -> None:
    buckets = [manifest("Bucket", f"b{number}", "claims") for number in range(5)]
    buckets[3]["metadata"]["labels"] = {"team": "rcm"}
    await wires.apply(*buckets, manifest("Bucket", "z", "other"))
    names, after = [], ""
    for _ in range(4):
        page = (await wires.call("GET", f"{API}/buckets?limit=2&after={after}")).json()
        names += [item["metadata"]["name"] for item in page["items"]]
        after = page["next"]
        if not after:
            break
    assert names == ["b0", "b1", "b2", "b3", "b4", "z"]
    found = (await wires.call("GET", f"{API}/buckets?label=team=rcm")).json()["items"]
    assert [item["metadata"]["name"] for item in found] == ["b3"]
    found = (await wires.call("GET", f"{API}/buckets?project=other")).json()["items"]
    assert [item["metadata"]["name"] for item in found] == ["z"]
    for wrong in ("limit=0", "limit=5000", "label=x", "after=x", "colour=red", "limit=1&limit=2"):
        assert (await wires.call("GET", f"{API}/buckets?{wrong}")).status == 400


async def test_a_project_s_key_sees_its_project_alone(wires: Wires) -> None:
    await wires.apply(manifest("Bucket", "mine", "claims"), manifest("Bucket", "theirs", "other"))
    key = wires.claims_key
    names = [i["metadata"]["name"] for i in (await wires.call("GET", f"{API}/buckets", key=key)).json()["items"]]
    assert names == ["mine"]
    names = [i["metadata"]["name"] for i in (await wires.call("GET", f"{API}/projects", key=key)).json()["items"]]
    assert names == ["claims"]
    assert (await wires.call("GET", f"{API}/sites", key=key)).json()["items"]
    hidden = [
        ("GET", f"{OTHER}/buckets/theirs"),
        ("GET", f"{OTHER}/buckets/never-there"),
        ("GET", f"{OTHER}/buckets"),
        ("GET", f"{API}/buckets?project=other"),
        ("GET", f"{OTHER}/buckets/theirs/referrers"),
        ("PUT", f"{OTHER}/buckets/theirs"),
        ("POST", f"{OTHER}/buckets"),
        ("DELETE", f"{OTHER}/buckets/theirs"),
        ("GET", f"{API}/projects/other"),
        ("GET", f"{API}/events?project=other"),
        ("GET", f"{OTHER}/credentials"),
        ("GET", f"{OTHER}/buckets/theirs/objects"),
        ("PUT", f"{OTHER}/buckets/theirs/objects/a.md"),
        ("GET", f"{OTHER}/buckets/theirs/objects/a.md"),
        ("DELETE", f"{OTHER}/buckets/theirs/objects/a.md"),
        ("GET", f"{OTHER}/knowledgebases/k/documents"),
        ("POST", f"{OTHER}/knowledgebases/k/search"),
        ("POST", f"{OTHER}/agents/a/ask"),
    ]
    for method, path in hidden:
        answer = await wires.call(method, path, {"spec": {}} if method in {"PUT", "POST"} else None, key=key)
        assert answer.status == 404, (method, path, answer.body)
        assert "no project 'other'" in answer.json()["error"]["message"]
    assert (await wires.apply(manifest("Bucket", "x", "other"), key=key)).status == 403
    assert (await wires.apply(manifest("Project", "mine"), key=key)).status == 403


async def test_events_tell_what_happened_to_whom(wires: Wires) -> None:
    await wires.apply(manifest("Bucket", "mine", "claims"), manifest("Bucket", "theirs", "other"))
    events = (await wires.call("GET", f"{API}/events?kind=bucket&name=mine&project=claims")).json()["items"]
    assert [(event["reason"], event["name"]) for event in events] == [("Created", "mine")]
    assert set(events[0]) == {"id", "at", "kind", "project", "name", "type", "reason", "message", "count"}
    own = (await wires.call("GET", f"{API}/events", key=wires.claims_key)).json()["items"]
    assert {event["project"] for event in own} == {"claims"}
    later = (await wires.call("GET", f"{API}/events?after={events[-1]['id']}&limit=1")).json()["items"]
    assert len(later) == 1
    assert (await wires.call("GET", f"{API}/events?kind=bucket")).status == 400


async def test_what_refers_to_a_resource_is_told(wires: Wires) -> None:
    knowledge = manifest("KnowledgeBase", "k", "claims", sources=[{"bucket": "b"}], embedding="e5")
    model = manifest("Model", "e5", catalogue="multilingual-e5-small")
    endpoint = manifest("Endpoint", "e5", "claims", model="e5")
    await wires.apply(manifest("Bucket", "b", "claims"), model, endpoint, knowledge)
    answer = await wires.call("GET", f"{CLAIMS}/buckets/b/referrers")
    assert answer.json() == {"items": [{"kind": "KnowledgeBase", "project": "claims", "name": "k"}]}
    used = await wires.call("DELETE", f"{CLAIMS}/buckets/b")
    assert used.status == 409
    assert "KnowledgeBase/claims/k" in used.json()["error"]["message"]


async def test_keys_are_made_shown_once_listed_and_revoked(wires: Wires) -> None:
    made = (await wires.call("POST", f"{API}/keys", {"name": "ci", "project": "claims"})).json()
    assert made["key"].startswith("flj_")
    assert made["project"] == "claims"
    listed = (await wires.call("GET", f"{API}/keys?project=claims")).json()["items"]
    assert made["id"] in {key["id"] for key in listed}
    assert not [key for key in listed if key.get("key")]
    assert (await wires.call("GET", f"{API}/sites", key=made["key"])).status == 200
    assert (await wires.call("DELETE", f"{API}/keys/{made['id']}")).status == 204
    assert (await wires.call("GET", f"{API}/sites", key=made["key"])).status == 401
    assert (await wires.call("DELETE", f"{API}/keys/unknown")).status == 404
    assert (await wires.call("POST", f"{API}/keys", {"name": "ci", "project": "nowhere"})).status == 404
    assert (await wires.call("POST", f"{API}/keys", {"nam": "ci"})).status == 400


async def test_a_project_s_key_manages_no_keys(wires: Wires) -> None:
    for method, path in (("GET", "keys"), ("POST", "keys"), ("DELETE", "keys/abc")):
        answer = await wires.call(method, f"{API}/{path}", {"name": "x"}, key=wires.claims_key)
        assert answer.status == 403


async def test_what_needs_an_engine_that_is_away_is_told_to_come_back(wires: Wires) -> None:
    await wires.apply(manifest("Bucket", "b", "claims"))
    answer = await wires.call("PUT", f"{CLAIMS}/buckets/b/objects/a.md", b"text")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert (await wires.call("GET", f"{CLAIMS}/credentials")).status == 404  # made with the first bucket
    too_large = await wires.call("PUT", f"{CLAIMS}/buckets/b/objects/a.md", b"x" * 70_000)
    assert too_large.status == 413
    assert "65,536" in too_large.json()["error"]["message"]


async def test_a_declared_bucket_is_known_to_the_very_next_call(wires: Wires) -> None:
    for number in range(10):
        await wires.apply(manifest("Bucket", f"b{number}", "claims"))
        answer = await wires.call("PUT", f"{CLAIMS}/buckets/b{number}/objects/a.md", b"text")
        assert answer.status == 503, answer.body  # not 404: the store is away, but the bucket is known


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("knowledgebases/none/search", {"query": "a"}, 404),
        ("knowledgebases/none/search", {"query": ""}, 400),
        ("knowledgebases/none/search", {"query": "a", "limit": 51}, 400),
        ("agents/none/ask", {"question": "a"}, 404),
        ("agents/none/ask", {"question": 5}, 400),
        ("agents/none/ask", b"{", 400),
        ("agents/none/ask", b"x" * 70_000, 413),
    ],
)
async def test_questions_are_checked(wires: Wires, path: str, body: object, status: int) -> None:
    assert (await wires.call("POST", f"{CLAIMS}/{path}", body)).status == status


async def test_the_catalogue_says_what_is_pulled(wires: Wires) -> None:
    items = (await wires.call("GET", f"{API}/catalogue")).json()["items"]
    assert {"qwen2.5-coder-0.5b-instruct", "multilingual-e5-small"} <= {item["name"] for item in items}
    assert not any(item["pulled"] for item in items)


async def test_unknown_paths_and_methods_say_what_there_is(wires: Wires) -> None:
    answer = await wires.call("GET", f"{API}/bukets")
    assert answer.status == 404
    assert "buckets" in answer.json()["error"]["hint"]
    answer = await wires.call("POST", f"{API}/status", {})
    assert answer.status == 405
    assert answer.headers["allow"] == "GET"
    assert (await wires.call("GET", f"{CLAIMS}/buckets/NOT_A_NAME")).status == 400
    assert (await wires.call("GET", f"{CLAIMS}/buckets/never")).status == 404


async def test_a_thousand_resources_are_declared_in_one_call_while_others_are_served(wires: Wires) -> None:
    declaring = asyncio.create_task(
        wires.apply(*(manifest("Bucket", f"b{number:04}", "claims") for number in range(1000)))
    )
    await asyncio.sleep(0.05)
    served = 0
    while not declaring.done():
        assert (await wires.call("GET", "/healthz", key="")).status == 200
        served += 1
    assert (await declaring).status == 200
    assert served >= 3
    assert (await wires.call("GET", f"{API}/status")).json()["resources"]["Bucket"]["total"] == 1000
