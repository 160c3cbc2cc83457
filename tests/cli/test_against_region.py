"""The commands against a real region."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tests.cli.terminal import FALAJ, on_terminal, run
from tests.running import RunningRegion

ROOT = Path(__file__).parents[2]

MANIFESTS = """
apiVersion: falaj/v1
kind: Project
metadata: {name: %(project)s, labels: {suite: cli}}
spec: {description: وصف قصير}
---
apiVersion: falaj/v1
kind: Bucket
metadata: {project: %(project)s, name: papers}
---
apiVersion: falaj/v1
kind: KnowledgeBase
metadata: {project: %(project)s, name: papers}
spec: {sources: [{bucket: papers}], embedding: e5}
---
apiVersion: falaj/v1
kind: Model
metadata: {name: %(project)s-e5}
spec: {catalogue: multilingual-e5-small}
---
apiVersion: falaj/v1
kind: Endpoint
metadata: {project: %(project)s, name: e5}
spec: {model: %(project)s-e5, replicas: 0}
"""


def falaj(region: RunningRegion, *arguments: str, code: int = 0, stdin: str = "") -> str:
    """What the command prints on stdout; it must end with ``code``."""
    done = run(*arguments, env=region.environment, stdin=stdin.encode())
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{stdout}\n{stderr}"
    return stdout if code == 0 or "--json" in arguments else stderr


def falaj_json(region: RunningRegion, *arguments: str, code: int = 0) -> Any:
    return json.loads(falaj(region, *arguments, "--json", code=code))


@pytest.fixture
def manifests(region: RunningRegion, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file with a project of the test's own and something in it; everything is deleted afterwards."""
    project = request.node.name.removeprefix("test_").replace("_", "-")[:30].strip("-")
    path = tmp_path / f"{project}.yaml"
    path.write_text(MANIFESTS.lstrip() % {"project": project})
    yield path
    keys = [item["key"] for item in _objects(region, project)]
    if keys:
        falaj(region, "objects", "rm", *keys, "-b", "papers", "-p", project)
    falaj(region, "delete", "-f", str(path))


def _objects(region: RunningRegion, project: str) -> list[dict[str, Any]]:
    answer = region.call("GET", f"/falaj/v1/projects/{project}/buckets/papers/objects")
    return list(answer.json()["items"]) if answer.status == 200 else []


def test_declaring_is_all_or_nothing_and_repeatable(region: RunningRegion, manifests: Path) -> None:
    project = manifests.stem
    assert "would be created" in falaj(region, "apply", "-f", str(manifests), "--dry-run")
    falaj(region, "get", f"project/{project}", code=3)
    assert falaj(region, "apply", "-f", str(manifests)).splitlines()[1] == f"Bucket/{project}/papers created"
    assert {row["action"] for row in falaj_json(region, "apply", "-f", str(manifests))["results"]} == {"unchanged"}
    waited = falaj_json(region, "wait", f"bucket/{project}/papers", f"project/{project}")
    assert [row["reached"] for row in waited["items"]] == [True, True]
    changed = manifests.read_text().replace("وصف قصير", "وصف").replace("name: papers}\nspec", "name: papers}\nspek")
    told = falaj(region, "apply", "-f", "-", stdin=changed, code=2)
    assert "stdin:10" in told
    assert "'spec'" in told
    assert "وصف قصير" in falaj(region, "get", f"project/{project}", "-o", "yaml"), "one is wrong, so none was applied"


def test_what_is_printed_can_be_applied(region: RunningRegion, manifests: Path) -> None:
    project = manifests.stem
    falaj(region, "apply", "-f", str(manifests))
    for kind in ("buckets", "kb", "endpoints"):
        printed = falaj(region, "get", kind, "-p", project, "-o", "yaml")
        assert yaml.safe_load(printed)["metadata"]["project"] == project
        assert falaj(region, "apply", "-f", "-", stdin=printed).endswith(" unchanged\n")
    assert falaj(region, "get", "projects", "-l", "suite=cli", "-o", "name") == f"Project/{project}\n"
    assert falaj_json(region, "get", "agents", "-p", project) == {"items": []}
    assert "Project/system" in falaj(region, "get", "projects", "-o", "name")


def test_everything_about_one(region: RunningRegion, manifests: Path) -> None:
    project = manifests.stem
    falaj(region, "apply", "-f", str(manifests))
    falaj(region, "wait", f"bucket/{project}/papers")
    seen = falaj_json(region, "describe", f"bucket/{project}/papers")
    assert seen["referrers"] == [f"KnowledgeBase/{project}/papers"]
    assert seen["resource"]["status"]["s3_bucket"] == f"{project}.papers"
    assert "Created" in {event["reason"] for event in seen["events"]}
    text = falaj(region, "describe", "bucket", "papers", "-p", project)
    assert f"used by: KnowledgeBase/{project}/papers" in text
    assert "Ready" in text


def test_deletion_keeps_what_is_used(region: RunningRegion, manifests: Path) -> None:
    project = manifests.stem
    falaj(region, "apply", "-f", str(manifests))
    assert f"KnowledgeBase/{project}/papers" in falaj(region, "delete", f"bucket/{project}/papers", code=5)
    falaj(region, "delete", f"kb/{project}/papers", f"bucket/{project}/papers")
    falaj(region, "wait", f"bucket/{project}/papers", "--for", "deleted")
    falaj(region, "get", f"bucket/{project}/papers", code=3)
    falaj(region, "delete", f"bucket/{project}/papers", "--ignore-missing")


def test_a_wait_that_times_out(region: RunningRegion, manifests: Path) -> None:
    falaj(region, "apply", "-f", str(manifests))
    told = falaj_json(region, "wait", f"kb/{manifests.stem}/papers", "--timeout", "٢s", code=7)
    assert told["error"]["code"] == "Transient"
    assert "KnowledgeBase" in told["error"]["message"]
    falaj_json(region, "wait", f"kb/{manifests.stem}/nothing", "--timeout", "5s", code=3)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("kind: Buket\napiVersion: falaj/v1\nmetadata: {name: a}\n", 2, "did you mean 'Bucket'"),
        ("a: &a [1]\nb: *a\n", 2, "alias"),
        ("kind: Bucket\nkind: Bucket\n", 2, "twice"),
        ("apiVersion: falaj/v1\nkind: Bucket\nmetadata: {name: b, project: not-there}\n", 3, "not-there"),
    ],
)
def test_wrong_manifests(region: RunningRegion, tmp_path: Path, text: str, code: int, words: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    told = falaj(region, "apply", "-f", str(path), code=code)
    assert words in told
    assert "wrong.yaml:" in told


def test_objects_go_there_and_come_back(region: RunningRegion, manifests: Path, tmp_path: Path) -> None:
    project = manifests.stem
    falaj(region, "apply", "-f", str(manifests), "--dry-run")
    folder = tmp_path / "folder"
    (folder / "ar").mkdir(parents=True)
    content = os.urandom(300_000)
    (folder / "ar" / "دليل العمل.bin").write_bytes(content)
    (folder / "plain #1?.txt").write_text("hello")
    bucket = ("-b", "papers", "-p", project)
    falaj(region, "apply", "-f", str(manifests))
    falaj(region, "wait", f"bucket/{project}/papers")
    put = falaj_json(region, "objects", "put", str(folder), *bucket, "--prefix", "x/")
    assert [item["key"] for item in put["items"]] == ["x/ar/دليل العمل.bin", "x/plain #1?.txt"]
    listed = falaj_json(region, "objects", "ls", "x/ar", *bucket)["items"]
    assert [(item["key"], item["size_bytes"]) for item in listed] == [("x/ar/دليل العمل.bin", len(content))]
    falaj(region, "objects", "get", "x/ar/دليل العمل.bin", *bucket, "-o", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content
    assert falaj(region, "objects", "get", "x/plain #1?.txt", *bucket, "-o", "-") == "hello"
    falaj(region, "objects", "rm", "x/plain #1?.txt", "x/nothing", *bucket)
    falaj(region, "objects", "get", "x/plain #1?.txt", *bucket, "-o", "-", code=3)
    assert "2 objects" in falaj(region, "objects", "put", str(folder), *bucket, "--prefix", "x/")


def test_too_large_objects_are_refused_before_they_are_read(
    region: RunningRegion, manifests: Path, tmp_path: Path
) -> None:
    falaj(region, "apply", "-f", str(manifests))
    falaj(region, "wait", f"bucket/{manifests.stem}/papers")
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(65 << 20)
    told = falaj(region, "objects", "put", str(large), "-b", "papers", "-p", manifests.stem, code=6)
    assert "large.bin" in told


def test_credentials_open_the_bucket_to_an_s3_client(region: RunningRegion, manifests: Path) -> None:
    project = manifests.stem
    falaj(region, "apply", "-f", str(manifests))
    falaj(region, "wait", f"bucket/{project}/papers")
    lines = falaj(region, "objects", "credentials", "-p", project).splitlines()
    found = dict(shlex.split(line)[1].split("=", 1) for line in lines)
    client = boto3.client(
        "s3",
        endpoint_url=found["AWS_ENDPOINT_URL"],
        aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
        region_name=found["AWS_REGION"],
    )
    client.put_object(Bucket=f"{project}.papers", Key="by-s3.txt", Body=b"hello")
    assert falaj(region, "objects", "get", "by-s3.txt", "-b", "papers", "-p", project, "-o", "-") == "hello"


def test_keys_open_their_project_until_they_are_revoked(region: RunningRegion, manifests: Path) -> None:
    falaj(region, "apply", "-f", str(manifests))
    made = falaj_json(region, "keys", "create", "--name", "مفتاح", "-p", manifests.stem, "--expires-days", "2")
    assert made["project"] == manifests.stem
    theirs = {**region.environment, "FALAJ_API_KEY": made["key"]}

    def code(*arguments: str) -> int:
        return run(*arguments, env=theirs).returncode

    assert code("get", f"bucket/{manifests.stem}/papers") == 0
    assert code("get", "bucket/other/papers") == 3, "it is not said whether another project has it"
    assert code("keys", "list") == 4
    rows = falaj_json(region, "keys", "list", "-p", manifests.stem)["items"]
    assert [(row["id"], row["revoked_at"]) for row in rows] == [(made["id"], None)]
    assert "key" not in rows[0] or rows[0]["key"] is None
    falaj(region, "keys", "revoke", made["id"])
    assert code("get", "buckets") == 4
    assert "revoked" in falaj(region, "keys", "list", "-p", manifests.stem)
    falaj(region, "keys", "revoke", "nothing", code=3)


def test_the_status_of_a_region_that_runs(region: RunningRegion) -> None:
    seen = falaj_json(region, "status")
    assert seen["ready"] is True
    assert seen["url"] == region.url
    (site,) = seen["sites"]
    assert {"name", "jurisdiction", "ready", "engines"} <= set(site)
    engines = {engine["name"]: engine for engine in site["engines"]}
    assert {"postgres", "seaweedfs", "gateway", "control"} <= set(engines)
    assert engines["gateway"]["port"] == region.port
    assert os.path.exists(f"/proc/{engines['postgres']['pid']}")
    assert {"Bucket", "Model", "Agent"} <= set(seen["resources"])


def test_events_are_followed_as_they_happen(region: RunningRegion, manifests: Path) -> None:
    process = subprocess.Popen(
        [*FALAJ, "events", "-f", "-n", "200", "--json"],
        env=region.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        time.sleep(1.5)
        falaj(region, "apply", "-f", str(manifests))
        wanted = ("KnowledgeBase", manifests.stem, "Created")
        for line in process.stdout:
            event = json.loads(line)
            if (event["kind"], event["project"], event["reason"]) == wanted:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        process.communicate()
    assert [event["name"] for event in falaj_json(region, "events", f"kb/{manifests.stem}/papers", "-n", "1")["items"]]


def test_the_catalogue(region: RunningRegion) -> None:
    rows = {row["name"]: row for row in falaj_json(region, "models", "list")["items"]}
    assert rows["qwen2.5-coder-1.5b-instruct"]["size_bytes"] == 1_117_320_768
    told = falaj(region, "models", "pull", "qwen2.5-coder-0.5b-instrut", code=2)
    assert "qwen2.5-coder-0.5b-instruct" in told


@pytest.mark.model
def test_an_agent_over_a_folder(serving: RunningRegion, manifests: Path, tmp_path: Path) -> None:
    project = manifests.stem
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(ROOT / "docs/handbook/en/api-keys.md", docs)
    text = manifests.read_text().replace("embedding: e5", "embedding: system/e5")
    agent = {"apiVersion": "falaj/v1", "kind": "Agent", "metadata": {"project": project, "name": "helper"}}
    agent["spec"] = {"endpoint": "system/chat", "knowledge": ["papers"]}
    manifests.write_text(f"{text}---\n{json.dumps(agent)}\n")
    falaj(serving, "apply", "-f", str(manifests))
    falaj(serving, "wait", f"bucket/{project}/papers")
    falaj(serving, "objects", "put", str(docs), "-b", "papers", "-p", project)
    falaj(serving, "wait", f"kb/{project}/papers", f"agent/{project}/helper", "--timeout", "3m")
    question = "Which command makes a further key?"
    answer = falaj_json(serving, "ask", "helper", question)
    assert set(answer) == {"answer", "citations", "refused", "model", "site", "usage", "seconds"}
    assert (answer["model"], answer["site"]) == ("qwen2.5-coder-0.5b-instruct", "local-a")
    assert answer["refused"] is (answer["citations"] == []), (
        "whether so small a model answers is not this test's matter"
    )
    for citation in answer["citations"]:
        assert set(citation) == {"document", "heading", "quote", "start", "end"}
        assert citation["document"] == "papers/api-keys.md"
    environment = {**serving.environment, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "200"}
    code, shown = on_terminal("ask", "helper", question, env=environment, seconds_max=120)
    assert code == 0, shown
    assert answer["answer"].split()[0] in shown
    assert "qwen2.5-coder-0.5b-instruct · local-a · " in shown
    assert falaj(serving, "ask", "nobody", question, code=3)


@pytest.mark.parametrize("folder", ["handbook", "own-folder"])
def test_the_examples_are_taken(region: RunningRegion, folder: str) -> None:
    files = ["-f", str(ROOT / "examples" / "handbook"), "-f", str(ROOT / "examples" / folder)]
    rows = falaj_json(region, "apply", *files[2:], *(files[:2] if folder != "handbook" else []), "--dry-run")["results"]
    assert {"Project", "Bucket", "KnowledgeBase", "Agent"} <= {row["kind"] for row in rows}


def test_a_wait_on_a_terminal_shows_a_line_for_each(region: RunningRegion, manifests: Path) -> None:
    falaj(region, "apply", "-f", str(manifests))
    code, shown = on_terminal(
        "wait", f"bucket/{manifests.stem}/papers", env={**region.environment, "TERM": "xterm", "COLUMNS": "160"}
    )
    assert code == 0
    assert f"Bucket/{manifests.stem}/papers ready" in shown
