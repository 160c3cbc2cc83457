from __future__ import annotations

import json
import os
from pathlib import Path

from falaj.engines.supervisor.processes import StateRecord, write_record
from falaj.engines.supervisor.procfs import stat
from tests.cli.scripted import answer, scripted
from tests.cli.terminal import environment, run
from tests.cli.test_client import free_port

SEEN = {
    "region": "local",
    "ready": True,
    "url": "http://127.0.0.1:7440",
    "sites": [{"name": "local-a", "jurisdiction": "AE", "ready": True, "engines": []}],
    "resources": {"Bucket": {"total": 3, "ready": 2}},
}


def test_what_the_region_says_is_printed(tmp_path: Path) -> None:
    env = environment(tmp_path, FALAJ_API_KEY="k")
    with scripted(answer(200, SEEN)) as server:
        told = run("status", "--json", "--url", server.url, env=env)
        assert (told.returncode, json.loads(told.stdout)) == (0, SEEN)
        told = run("status", "--url", server.url, env=env)
    assert "site local-a (AE) is ready" in told.stdout.decode()
    assert told.stdout.decode().splitlines()[-1].split() == ["Bucket", "2", "3"]


def test_a_region_that_is_not_ready_is_exit_code_1(tmp_path: Path) -> None:
    with scripted(answer(200, {**SEEN, "ready": False})) as server:
        told = run("status", "--json", "--url", server.url, env=environment(tmp_path, FALAJ_API_KEY="k"))
    assert (told.returncode, json.loads(told.stdout)["ready"]) == (1, False)


def test_nothing_runs(tmp_path: Path) -> None:
    env = environment(tmp_path, FALAJ_PORT=str(free_port()))
    told = run("status", "--json", env=env)
    assert told.returncode == 1
    assert json.loads(told.stdout) == {
        "region": "local",
        "ready": False,
        "url": f"http://127.0.0.1:{env['FALAJ_PORT']}",
        "sites": [],
        "resources": {},
    }
    assert b"falaj up" in told.stderr


def test_a_part_of_the_site_is_shown_when_the_gateway_is_away(tmp_path: Path) -> None:
    states = tmp_path / "sites" / "local-a" / "state"
    states.mkdir(parents=True)
    me = stat(os.getpid())
    assert me is not None
    for name, pid, ticks in (("postgres", os.getpid(), me.start_ticks), ("gateway", os.getpid(), 1)):
        record = StateRecord(name, "ready", pid, ticks, 5432, 0, "", None, "", "TERM", 1.0, 1)
        write_record(states / f"{name}.json", record)
    told = run("status", "--json", env=environment(tmp_path, FALAJ_PORT=str(free_port())))
    assert told.returncode == 1
    (site,) = json.loads(told.stdout)["sites"]
    engines = {engine["name"]: engine for engine in site["engines"]}
    assert (site["name"], site["ready"]) == ("local-a", False)
    assert (engines["postgres"]["ready"], engines["postgres"]["pid"]) == (True, os.getpid())
    assert (engines["gateway"]["ready"], engines["gateway"]["pid"]) == (False, None), "it has died"


def test_a_wrong_key_is_told_as_such(tmp_path: Path) -> None:
    error = {"error": {"code": "Denied", "message": "the key is not good", "where": "", "hint": ""}}
    with scripted(answer(401, error)) as server:
        assert run("status", "--url", server.url, env=environment(tmp_path, FALAJ_API_KEY="k")).returncode == 4
