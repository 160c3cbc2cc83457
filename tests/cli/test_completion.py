from __future__ import annotations

from pathlib import Path

import pytest

from falaj.cli.completion import SHELLS, names, resource_words
from falaj.cli.session import Session
from tests.cli.scripted import answer, scripted
from tests.cli.terminal import environment, run, run_process
from tests.cli.test_client import free_port
from tests.cli.test_session import KINDS, item

BASES = {"items": [item("a", "manual"), item("b", "map"), item("b", "other")], "next": ""}


def test_kinds_then_names_are_completed() -> None:
    with scripted(answer(200, KINDS), answer(200, BASES)) as server:
        session = Session(url=server.url, project=None)
        assert resource_words(session, "k") == ["knowledgebase/"]
        assert resource_words(session, "") == ["knowledgebase/", "project/"]
        assert resource_words(session, "kb/ma") == ["kb/manual", "kb/map"]
        assert resource_words(session, "kb/b/m") == ["kb/b/manual", "kb/b/map"], "the scripted server does not select"
        assert "project=b" in server.lines[-1]
        assert names(session, "knowledgebases", "o") == ["other"]


def test_completion_never_fails() -> None:
    session = Session(url=f"http://127.0.0.1:{free_port()}")
    assert resource_words(session, "k") == []
    assert resource_words(session, "kb/") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str, tmp_path: Path) -> None:
    told = run("completion", shell, env=environment(tmp_path))
    assert told.returncode == 0, told.stderr
    assert b"_FALAJ_COMPLETE" in told.stdout


def complete(words: str, env: dict[str, str]) -> list[str]:
    count = len(words.split(" ")) - 1
    told = run_process(env={**env, "_FALAJ_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)})
    assert told.returncode == 0, told.stderr
    return [line.partition(",")[2] for line in told.stdout.decode().split()]


def test_the_shell_gets_commands_options_and_resources(tmp_path: Path) -> None:
    env = environment(tmp_path, FALAJ_API_KEY="k")
    assert complete("falaj mod", env) == ["models"]
    assert complete("falaj models pu", env) == ["pull"]
    assert complete("falaj wait --ti", env) == ["--timeout"]
    with scripted(answer(200, KINDS), answer(200, BASES)) as server:
        assert complete("falaj describe kb/ma", {**env, "FALAJ_URL": server.url}) == ["kb/manual", "kb/map"]
