from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.scripted import answer, scripted
from tests.cli.terminal import environment, run
from tests.cli.test_waiting import model

KINDS = answer(200, {"items": [{"name": "Model", "plural": "models", "scope": "region", "short": []}]})
PULLED = {"source": "packages", "path": "/m/f.gguf", "bytes_done": 9, "bytes_total": 9, "sha256": "ab" * 32}


def entry(name: str, **fields: Any) -> dict[str, Any]:
    common = {"task": "chat", "size_bytes": 5_000_000, "licence": "MIT", "languages": ["en"], "pulled": False}
    return {"name": name, **common, "context_tokens_max": 1, **fields}


def declared(name: str, catalogue: str | None, status: str, reason: str, **fields: Any) -> dict[str, Any]:
    base = model(status, reason, **fields)
    spec = {"catalogue": catalogue} if catalogue else {"task": "chat", "size_bytes": 7}
    return {**base, "metadata": {"name": name, "generation": 1}, "spec": spec}


def test_the_catalogue_and_what_is_held_of_it(tmp_path: Path) -> None:
    catalogue = {"items": [entry("a"), entry("b"), entry("e5", size_bytes=None)]}
    held = [
        declared("b-one", "b", "True", "Pulled"),
        declared("b-two", "b", "False", "Pulling", bytes_done=1000, bytes_total=4000),
        declared("own", None, "True", "Pulled"),
    ]
    answers = (answer(200, catalogue), KINDS, answer(200, {"items": held, "next": ""}))
    with scripted(*answers, *answers) as server:
        env = environment(tmp_path, FALAJ_API_KEY="k", FALAJ_URL=server.url)
        told = run("models", "list", "--json", env=env)
        rows = [(row["name"], row["model"], row["state"]) for row in json.loads(told.stdout)["items"]]
        assert rows == [
            ("a", None, "not pulled"),
            ("b", "b-one", "ready"),
            ("b", "b-two", "1.0 kB of 4.0 kB, Pulling: so it is"),
            ("e5", None, "not pulled"),
            ("own", "own", "ready"),
        ]
        told = run("models", "list", env=env)
        assert told.returncode == 0, told.stderr
        assert "bundled" in told.stdout.decode()


def test_a_pull_declares_waits_and_says_where_the_bytes_came_from(tmp_path: Path) -> None:
    missing = answer(404, {"error": {"code": "NotFound", "message": "no", "where": "", "hint": ""}})
    pulled = answer(200, model("True", "Pulled", **PULLED))
    with scripted(KINDS, missing, answer(200, {"results": []}), answer(200, model()), pulled) as server:
        env = environment(tmp_path, FALAJ_API_KEY="k", FALAJ_URL=server.url)
        told = run("models", "pull", "qwen2.5", env=env)
        assert told.returncode == 0, told.stderr
        assert "qwen2.5: 9 B from packages, SHA-256 matched (abababababab…)" in told.stdout.decode()
        assert server.lines[2].startswith("POST /falaj/v1/apply ")
        assert b'"spec": {"catalogue": "qwen2.5"}' in server.requests[2]


def test_a_model_that_is_declared_is_only_waited_for(tmp_path: Path) -> None:
    with scripted(KINDS, answer(200, model("True", "Bundled", source="bundled"))) as server:
        told = run("models", "pull", "e5", env=environment(tmp_path, FALAJ_API_KEY="k", FALAJ_URL=server.url))
        assert "bundled with the engine" in told.stdout.decode()
        assert all(line.startswith("GET ") for line in server.lines)


def test_a_file_with_a_wrong_hash_ends_the_pull(tmp_path: Path) -> None:
    with scripted(KINDS, answer(200, model(reason="Terminal"))) as server:
        told = run("models", "pull", "x", "--json", env=environment(tmp_path, FALAJ_API_KEY="k", FALAJ_URL=server.url))
    assert told.returncode == 1
    assert json.loads(told.stdout)["error"]["code"] == "Terminal"
