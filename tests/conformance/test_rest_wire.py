"""The REST wire against a running region: from a declaration to something that works, and back to nothing."""

import pytest

from tests.running import RunningRegion, wait_for

API = "/falaj/v1"


@pytest.fixture(scope="module")
def key(region: RunningRegion) -> str:
    """The key of a project with a bucket."""
    made = region.project("rest-wire", {"kind": "Bucket", "metadata": {"name": "docs"}, "spec": {}})
    region.wait_ready(f"{API}/projects/rest-wire/buckets/docs")
    return made


def test_the_status_is_what_the_contract_says(region: RunningRegion) -> None:
    status = region.call("GET", f"{API}/status").json()
    assert set(status) == {"region", "ready", "url", "s3_url", "version", "sites", "resources"}
    assert status["ready"] is True
    assert (status["url"], status["s3_url"]) == (region.url, f"http://127.0.0.1:{region.s3_port}")
    (site,) = status["sites"]
    assert set(site) == {"name", "jurisdiction", "ready", "engines"}
    assert (site["name"], site["jurisdiction"], site["ready"]) == ("local-a", "AE", True)
    engines = {engine["name"]: engine for engine in site["engines"]}
    assert {"postgres", "seaweedfs", "gateway", "control"} <= set(engines)
    for engine in engines.values():
        assert set(engine) == {"name", "ready", "pid", "port", "restarts", "message"}
    assert engines["gateway"]["port"] == region.port
    assert engines["postgres"]["pid"] == region.process("postgres").pid
    assert status["resources"]["Site"] == {"total": 1, "ready": 1}


def test_an_object_is_stored_listed_read_and_deleted(region: RunningRegion, key: str) -> None:
    base = f"{API}/projects/rest-wire/buckets/docs/objects"
    content = "ماء\x00".encode() * 100_000
    stored = region.call("PUT", f"{base}/a/%D9%85%D8%A7%D8%A1%20b.md", content, key=key)
    assert stored.status == 200, stored.data
    assert stored.json()["size_bytes"] == len(content)
    assert region.call("PUT", f"{base}/a/c.md", b"c", key=key).status == 200
    listed = region.call("GET", f"{base}?prefix=a/", key=key).json()
    assert [item["key"] for item in listed["items"]] == ["a/c.md", "a/ماء b.md"]
    assert set(listed["items"][0]) == {"key", "size_bytes", "etag", "modified_at"}
    page = region.call("GET", f"{base}?limit=1", key=key).json()
    assert page["next"] == "a/c.md"
    rest = region.call("GET", f"{base}?limit=5&after=a/c.md", key=key).json()
    assert [item["key"] for item in rest["items"]] == ["a/ماء b.md"]
    read = region.call("GET", f"{base}/a/%D9%85%D8%A7%D8%A1%20b.md", key=key)
    assert read.data == content
    assert read.headers["content-type"] == "application/octet-stream"
    assert read.headers["content-disposition"] == "attachment"
    for name in ("a/c.md", "a/%D9%85%D8%A7%D8%A1%20b.md"):
        assert region.call("DELETE", f"{base}/{name}", key=key).status == 204
    assert region.call("GET", f"{base}/a/c.md", key=key).status == 404
    assert region.call("PUT", f"{base}/../../x", b"x", key=key).status in {400, 404}


def test_a_bucket_goes_when_it_is_empty(region: RunningRegion, key: str) -> None:
    path = f"{API}/projects/rest-wire/buckets/short-lived"
    assert region.call("PUT", path, {"spec": {}}, key=key).status == 201
    region.wait_ready(path)
    assert region.call("DELETE", path, key=key).status == 202
    wait_for(lambda: region.call("GET", path, key=key).status == 404, seconds_max=20)
    reasons = [event["reason"] for event in region.call("GET", f"{API}/events?limit=1000", key=key).json()["items"]]
    assert "DeletionRequested" in reasons


def test_a_project_goes_with_its_keys(region: RunningRegion) -> None:
    key = region.project("passing")
    assert region.call("GET", f"{API}/projects/passing", key=key).status == 200
    region.wait_ready(f"{API}/projects/passing")
    assert region.call("DELETE", f"{API}/projects/passing").status == 202
    wait_for(lambda: region.call("GET", f"{API}/projects/passing").status == 404, seconds_max=20)
    assert region.call("GET", f"{API}/sites", key=key).status == 401


def test_control_s_metrics_reach_prometheus_through_the_gateway(region: RunningRegion, key: str) -> None:
    def counted() -> bool:
        return 'falaj_reconciles_total{kind="Bucket",outcome="ok"}' in region.call("GET", "/metrics").data.decode()

    wait_for(counted, seconds_max=20)
    text = region.call("GET", "/metrics").data.decode()
    samples = [line.split("#")[0].split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert "process_resident_memory_bytes" in samples
    families = [line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families)), "a family is there twice"


def test_logs_are_json_and_hold_no_key(region: RunningRegion, key: str) -> None:
    region.call("GET", f"{API}/sites", key=key[:-2] + "aa")
    for process in ("gateway", "control"):
        text = region.log(process, 1 << 20)
        assert all(line.startswith("{") for line in text.splitlines()), text[:500]
        for secret in (key, region.admin_key, (region.home / "secrets" / "postgres.password").read_text().strip()):
            assert secret.rpartition("_")[2] not in text
