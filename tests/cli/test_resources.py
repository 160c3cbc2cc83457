from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.scripted import answer, scripted
from tests.cli.terminal import environment, run

KINDS = answer(
    200,
    {
        "items": [
            {"name": "Model", "plural": "models", "scope": "region", "short": []},
            {"name": "Agent", "plural": "agents", "scope": "project", "short": []},
            {"name": "KnowledgeBase", "plural": "knowledgebases", "scope": "project", "short": ["kb"]},
        ]
    },
)
USED = answer(409, {"error": {"code": "Conflict", "message": "Agent/p/a uses it", "where": "", "hint": ""}})
MISSING = answer(404, {"error": {"code": "NotFound", "message": "no", "where": "", "hint": ""}})
DELETING = answer(202, {"action": "deleting"})


def base(name: str, ready: str = "True", **status: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "reason": "Indexed", "message": "", "since": "2026-01-01T00:00:00Z"}
    return {
        "apiVersion": "falaj/v1",
        "kind": "KnowledgeBase",
        "metadata": {"project": "p", "name": name, "generation": 2, "createdAt": "2026-01-01T00:00:00Z"},
        "spec": {"sources": [{"bucket": "مستندات"}]},
        "status": {"observedGeneration": 2, "conditions": [condition], **status},
    }


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, FALAJ_API_KEY="k")


def test_shapes_of_a_list(env: dict[str, str]) -> None:
    page = answer(200, {"items": [base("a", documents=4, documents_ready=3), base("b", "False")], "next": ""})
    with scripted(*[KINDS, page] * 4) as server:
        env["FALAJ_URL"] = server.url
        lines = run("get", "kb", env=env).stdout.decode().splitlines()
        assert lines[0].split() == ["PROJECT", "NAME", "READY", "DONE", "AGE", "STATE"]
        assert lines[1].split()[:7] == ["p", "a", "True", "3", "of", "4", "documents"]
        assert lines[2].split()[:4] == ["p", "b", "False", "-"]
        assert run("get", "kb", "-o", "name", env=env).stdout == b"KnowledgeBase/p/a\nKnowledgeBase/p/b\n"
        yaml = run("get", "kb", "-o", "yaml", env=env).stdout.decode()
        assert yaml.count("---") == 1
        assert "مستندات" in yaml
        assert len(json.loads(run("get", "kb", "--json", env=env).stdout)["items"]) == 2


def test_one_is_one_document(env: dict[str, str]) -> None:
    with scripted(KINDS, answer(200, base("a"))) as server:
        told = run("get", "kb/p/a", "-o", "json", "--url", server.url, env=env)
        assert json.loads(told.stdout) == base("a")
        assert server.lines[-1] == "GET /falaj/v1/projects/p/knowledgebases/a HTTP/1.1"


def test_nothing_is_no_error_and_no_output(env: dict[str, str]) -> None:
    with scripted(KINDS, answer(200, {"items": [], "next": ""})) as server:
        told = run("get", "models", "--url", server.url, env=env)
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"there are none\n")


def test_users_go_first_and_what_they_used_follows(env: dict[str, str]) -> None:
    there = answer(200, base("a"))
    script = [KINDS, DELETING, USED, there, USED, MISSING, DELETING, MISSING, MISSING]
    with scripted(*script) as server:
        told = run("delete", "agent/p/a", "kb/p/b", "--json", "--url", server.url, env=env)
        assert told.returncode == 0, told.stderr
        assert [row["name"] for row in json.loads(told.stdout)["results"]] == ["a", "b"]


def test_what_others_use_stays(env: dict[str, str]) -> None:
    with scripted(KINDS, USED) as server:
        told = run("delete", "kb/p/b", "--url", server.url, env=env)
    assert told.returncode == 5
    assert b"Agent/p/a uses it" in told.stderr


def test_what_is_missing(env: dict[str, str]) -> None:
    with scripted(KINDS, MISSING, KINDS, MISSING) as server:
        assert run("delete", "kb/p/b", "--url", server.url, env=env).returncode == 3
        assert run("delete", "kb/p/b", "--ignore-missing", "--url", server.url, env=env).returncode == 0


def test_a_manifest_that_names_nothing_deletes_nothing(env: dict[str, str]) -> None:
    with scripted(KINDS) as server:
        told = run("delete", "-f", "-", "--url", server.url, env=env, stdin=b"kind: Agent\nmetadata: {name: a}\n")
    assert told.returncode == 2
    assert b"stdin:1" in told.stderr
