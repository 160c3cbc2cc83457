from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from falaj.cli.ask import show_evidence
from falaj.cli.output import Output
from falaj.cli.text import ISOLATE, POP
from tests.cli.scripted import answer, scripted
from tests.cli.terminal import environment, on_terminal

KINDS = answer(200, {"items": [{"name": "Agent", "plural": "agents", "scope": "project", "short": []}]})
CITATION = {
    "document": "ar/region.md",
    "heading": "المنطقة",
    "quote": "سطر\nسطر " + "كلمة " * 100,
    "start": 0,
    "end": 9,
}
EVIDENCE = {"citations": [CITATION], "refused": False, "model": "qwen", "site": "local-a", "seconds": 4.21}


def test_evidence_is_numbered_and_short() -> None:
    stdout = io.StringIO()
    show_evidence(Output(stdout=stdout), {**EVIDENCE, "usage": {"prompt_tokens": 900, "completion_tokens": 33}})
    lines = stdout.getvalue().splitlines()
    assert lines[1] == "[1] ar/region.md › المنطقة"
    assert lines[2].startswith("    سطر سطر كلمة")
    assert lines[2].endswith(" …")
    assert len(lines[2]) < 260
    assert lines[-1] == "qwen · local-a · 900 + 33 tokens · 4.2 s"


def events(*pieces: object) -> list[tuple[float, bytes]]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return [(0.0, head), *((0.02, b"data: " + json.dumps(piece).encode() + b"\n\n") for piece in pieces)]


def delta(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, FALAJ_API_KEY="k", FALAJ_PROJECT="p", NO_COLOR="1", TERM="xterm", COLUMNS="300")


def test_on_a_terminal_the_answer_is_shown_while_it_is_written(env: dict[str, str]) -> None:
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "falaj": EVIDENCE}
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}
    stream = [*events(delta("مرحبا "), delta("بالعالم"), last, usage), (0.0, b"data: [DONE]\n\n")]
    with scripted(KINDS, stream) as server:
        code, shown = on_terminal("ask", "helper", "ما المنطقة؟", "--url", server.url, env=env)
    assert code == 0, shown
    assert f"{ISOLATE}مرحبا بالعالم{POP}" in shown
    assert "[1] ar/region.md" in shown
    assert "9 + 3 tokens" in shown
    assert "ما المنطقة؟" in json.loads(server.requests[1].partition(b"\r\n\r\n")[2])["messages"][0]["content"]
    assert b"Falaj-Project: p\r\n" in server.requests[1]


def test_an_answer_that_breaks_off_is_an_error_after_what_was_shown(env: dict[str, str]) -> None:
    with scripted(KINDS, events(delta("half an "))) as server:
        code, shown = on_terminal("ask", "helper", "?", "--url", server.url, env=env)
    assert code == 7
    assert "half an" in shown
    assert "broke off" in shown
