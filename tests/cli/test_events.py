from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from falaj.cli.events import PAGE_ITEMS, latest
from falaj.cli.session import Session
from tests.cli.scripted import answer, scripted
from tests.cli.terminal import FALAJ, environment, run


def event(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "at": "2026-11-22T10:00:00.123Z",
        "kind": "Bucket",
        "project": "p",
        "name": "b",
        "type": "Normal",
        "reason": "Ready",
        "message": f"number {number}",
    }


def page(*numbers: int) -> bytes:
    return answer(200, {"items": [event(number) for number in numbers]})


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, FALAJ_API_KEY="k")


def test_the_latest_are_found_page_by_page() -> None:
    with scripted(page(*range(1, PAGE_ITEMS + 1)), page(900, 901)) as server:
        items, last = latest(Session(url=server.url), None, 3)
        assert [item["id"] for item in items] == [PAGE_ITEMS, 900, 901]
        assert last == 901
        assert f"after={PAGE_ITEMS}" in server.lines[1]


def test_a_table_and_a_document(env: dict[str, str]) -> None:
    with scripted(page(1, 2)) as server:
        lines = run("events", "-n", "١", "--url", server.url, env=env).stdout.decode().splitlines()
        assert lines[1].split() == ["2026-11-22", "10:00:00", "Bucket/p/b", "Normal", "Ready", "number", "2"]
        assert len(lines) == 2
        told = run("events", "--json", "--url", server.url, env=env)
        assert [item["id"] for item in json.loads(told.stdout)["items"]] == [1, 2]


def test_following_prints_lines_until_it_is_interrupted(env: dict[str, str]) -> None:
    with scripted(page(1, 2), page(), answer(503, {}), answer(503, {}), answer(503, {}), page(3), page()) as server:
        process = subprocess.Popen(
            [*FALAJ, "events", "-f", "-n", "0", "--json", "--url", server.url],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        deadline = time.monotonic() + 30
        line = process.stdout.readline()
        assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert json.loads(line) == event(3)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
