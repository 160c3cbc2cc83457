from __future__ import annotations

import io
import time
from typing import Any

import pytest

from falaj.cli.output import Output
from falaj.cli.session import KindInfo, Reference, Session
from falaj.cli.waiting import DELETED, Display, Seen, amount, wait_for
from falaj.errors import NotFound, Terminal, Transient
from tests.cli.scripted import answer, scripted

MODEL = KindInfo("Model", "models", "region")
REFERENCE = Reference(MODEL, "", "qwen")


def model(status: str = "False", reason: str = "Pulling", *, observed: int = 1, **fields: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": status, "reason": reason, "message": "so it is"}]
    return {
        "kind": "Model",
        "metadata": {"name": "qwen", "generation": 1},
        "spec": {},
        "status": {"observedGeneration": observed, "conditions": conditions, **fields},
    }


def test_ready_is_what_was_observed_of_the_spec_as_it_is_now() -> None:
    assert Seen(REFERENCE, model("True")).reached("Ready")
    assert Seen(REFERENCE, model("True")).reached("ready")
    assert not Seen(REFERENCE, model("True", observed=0)).reached("Ready")
    assert not Seen(REFERENCE, model("False")).reached("Ready")
    assert not Seen(REFERENCE, model("True")).reached("Other")
    assert not Seen(REFERENCE, None).reached("Ready")
    assert Seen(REFERENCE, None).reached(DELETED)
    assert not Seen(REFERENCE, model()).reached(DELETED)


def test_amounts() -> None:
    assert str(amount(model(bytes_done=5_000_000, bytes_total=1_000_000_000))) == "5.0 MB of 1.0 GB"
    assert amount(model()) is None, "nothing to count yet"
    base = {"kind": "KnowledgeBase", "spec": {}}
    counts = {"documents": 9, "documents_ready": 5, "documents_failed": 1}
    assert str(amount({**base, "status": counts})) == "6 of 9 documents"
    replicas = {"replicas": [{"ready": True}, {"ready": False}]}
    assert str(amount({"kind": "Endpoint", "spec": {"replicas": 2}, "status": replicas})) == "1 of 2 replicas"
    assert amount({"kind": "Bucket", "spec": {}, "status": {}}) is None


def waiting(*seen: dict[str, Any] | int, goal: str = "Ready", seconds_max: float = 10) -> list[Seen]:
    answers = [
        answer(item, {"error": {"code": "", "message": "no"}}) if isinstance(item, int) else answer(200, item)
        for item in seen
    ]
    with scripted(*answers) as server:
        return wait_for(Session(url=server.url), [REFERENCE], goal=goal, seconds_max=seconds_max)


def test_it_waits_until_it_is_ready() -> None:
    (seen,) = waiting(model(), model("True", "Pulled", observed=0), model("True", "Pulled"))
    assert seen.as_dict("Ready") | {"message": ""} == {
        "kind": "Model",
        "project": "",
        "name": "qwen",
        "reached": True,
        "reason": "Pulled",
        "message": "",
    }


def test_it_waits_through_a_region_that_is_away() -> None:
    assert waiting(503, 503, 503, 503, model("True"))[0].reached("Ready")


def test_it_waits_until_it_is_gone() -> None:
    assert waiting(model(), 404, goal=DELETED)[0].resource is None


def test_what_is_not_there_does_not_become_ready() -> None:
    with pytest.raises(NotFound, match="Model/qwen"):
        waiting(404)


def test_what_failed_for_good_ends_the_wait() -> None:
    started = time.monotonic()
    with pytest.raises(Terminal, match="so it is") as raised:
        waiting(model(reason="Terminal"))
    assert raised.value.where == "Model/qwen"
    assert time.monotonic() - started < 5


def test_the_time_is_over() -> None:
    with pytest.raises(Transient, match="Pulling: so it is") as raised:
        waiting(model(), seconds_max=0.5)
    assert "--timeout" in raised.value.hint
    with pytest.raises(Transient, match="no"):
        waiting(503, seconds_max=0.5)


def test_without_a_terminal_a_line_is_written_for_what_changed() -> None:
    stderr = io.StringIO()
    with Display(Output(stderr=stderr), [REFERENCE], "Ready") as display:
        for done in (10, 20, 30):
            display.show([Seen(REFERENCE, model(bytes_done=done, bytes_total=100))])
        display.show([Seen(REFERENCE, model("True", "Pulled", bytes_done=100, bytes_total=100))])
        display.show([Seen(REFERENCE, model("True", "Pulled", bytes_done=100, bytes_total=100))])
    assert stderr.getvalue().splitlines() == [
        "Model/qwen: 10 B of 100 B, Pulling: so it is",
        "Model/qwen: 100 B of 100 B, Pulled: so it is",
    ]


def test_a_thousand_are_looked_at_by_pages_and_shown_as_one() -> None:
    references = [Reference(MODEL, "", f"m{number}") for number in range(1000)]
    items = [{**model("True"), "metadata": {"name": f"m{n}", "generation": 1}} for n in range(1000)]
    pages = [{"items": items[:500], "next": "/m499"}, {"items": items[500:], "next": ""}]
    with scripted(*(answer(200, page) for page in pages)) as server:
        seen = wait_for(Session(url=server.url), references)
        assert len(server.requests) == 2
    assert len(seen) == 1000
    stderr = io.StringIO()
    with Display(Output(stderr=stderr), references, "Ready") as display:
        display.show(seen)
    assert stderr.getvalue() == "1000 of 1000 ready\n"
