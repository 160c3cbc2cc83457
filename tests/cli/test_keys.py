from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from falaj.cli.keys import _state
from tests.cli.scripted import answer, scripted
from tests.cli.terminal import environment, run

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("revoked_at", "expires_at", "state"),
    [
        (None, None, "good"),
        (None, "2027-01-01T00:00:00Z", "good until 2027-01-01"),
        (None, "2026-01-01T00:00:00Z", "expired 2026-01-01"),
        ("2026-02-02T00:00:00Z", "2026-01-01T00:00:00Z", "revoked 2026-02-02"),
    ],
)
def test_the_state_of_a_key(revoked_at: str | None, expires_at: str | None, state: str) -> None:
    assert _state({"revoked_at": revoked_at, "expires_at": expires_at}, now=NOW) == state


def test_stdout_is_the_key_alone(tmp_path: Path) -> None:
    env = environment(tmp_path, FALAJ_API_KEY="k")
    made = {"id": "abc", "name": "ci", "project": "p", "key": "flj_abc_secret", "expires_at": None}
    with scripted(answer(201, made)) as server:
        told = run("keys", "create", "--name", "ci", "-p", "p", "--expires-days", "٣٠", "--url", server.url, env=env)
        assert told.stdout == b"flj_abc_secret\n"
        assert b"falaj keys revoke abc" in told.stderr
        body = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert (body["name"], body["project"]) == ("ci", "p")
    left = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
