"""The command as a whole: exit codes, what is printed where, and how quickly it starts."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from falaj import errors
from falaj.cli.main import COMMANDS, falaj
from tests.cli.scripted import answer, scripted
from tests.cli.terminal import FALAJ, environment, on_terminal, run, run_process
from tests.cli.test_client import free_port

KEY = {"FALAJ_API_KEY": "flj_a_b"}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, FALAJ_URL=f"http://127.0.0.1:{free_port()}", **KEY)


def test_help_is_quick_and_imports_nothing_that_it_does_not_need(env: dict[str, str]) -> None:
    code = (
        "import sys; from falaj.cli.main import main; main(['--help']); "
        "heavy = {'pydantic', 'rich', 'urllib3', 'yaml', 'psutil'} & set(sys.modules); "
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert b"falaj up" in done.stdout


def test_help_costs_less_than_a_third_of_a_second(env: dict[str, str]) -> None:
    costs = []  # processor time: what the machine does besides is not the command's
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_process("--help", env=env).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(costs) < 0.3, costs


def test_completion_of_commands_does_not_read_settings(env: dict[str, str]) -> None:
    completing = {**env, "_FALAJ_COMPLETE": "zsh_complete", "COMP_WORDS": "falaj st", "COMP_CWORD": "1"}
    code = "import sys; from falaj.cli.main import main; main([]); sys.exit('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=completing, capture_output=True, timeout=30, check=False)
    assert b"status" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_the_table_is_what_the_command_says_of_itself(name: str) -> None:
    command = falaj.get_command(click.Context(falaj), name)
    assert command is not None
    assert command.name == name
    assert command.help
    first = command.help.split("\n\n")[0].replace("\n", " ")
    assert first.startswith(COMMANDS[name][2].rstrip(".")), first


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json(name: str) -> None:
    command = falaj.get_command(click.Context(falaj), name)
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        assert leaf is not None
        assert any("--json" in parameter.opts for parameter in leaf.params), leaf.name


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("FalajError", 1),
        ("Terminal", 1),
        ("Invalid", 2),
        ("NotFound", 3),
        ("Denied", 4),
        ("Conflict", 5),
        ("LimitExceeded", 6),
        ("Transient", 7),
    ],
)
def test_exit_codes_and_what_an_error_says(kind: str, code: int, env: dict[str, str]) -> None:
    error = getattr(errors, kind)("what is wrong", where="the place", hint="what to do")
    with scripted(answer(400, {"error": error.as_dict()})) as server:
        env["FALAJ_URL"] = server.url
        told = run("keys", "list", env=env)
        assert (told.returncode, told.stdout) == (code, b"")
        assert told.stderr.decode() == "error: what is wrong\nwhere: the place\nto do: what to do\n"
        told = run("keys", "list", "--json", env=env)
        assert (told.returncode, told.stderr) == (code, b"")
        assert json.loads(told.stdout) == {"error": error.as_dict()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stauts"], "did you mean 'status'"),
        (["--nope"], "--nope"),
        (["get"], "Missing argument"),
        (["keys", "make"], "No such command"),
        (["wait", "a/b", "--timeout", "soon"], "not a length of time"),
        (["apply"], "nothing to apply"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], words: str, env: dict[str, str]) -> None:
    told = run(*arguments, env=env)
    assert (told.returncode, told.stdout) == (2, b"")
    assert words in told.stderr.decode()
    told = run(*arguments, "--json", env=env)
    assert told.returncode == 2
    assert json.loads(told.stdout)["error"]["code"] == "Invalid"
    assert told.stderr == b""


def test_no_arguments_show_the_help(env: dict[str, str]) -> None:
    told = run(env=env)
    assert told.returncode == 2
    assert b"Commands:" in told.stderr


def test_no_region(env: dict[str, str]) -> None:
    told = run("get", "buckets", env=env)
    assert told.returncode == 7
    assert f"no region answers at {env['FALAJ_URL']}" in told.stderr.decode()
    assert "run `falaj up`" in told.stderr.decode()


def test_options_before_the_command_count_too(env: dict[str, str]) -> None:
    with scripted(answer(200, {"items": []})) as server:
        told = run("--url", server.url, "--json", "keys", "list", env=env)
    assert (told.returncode, json.loads(told.stdout)) == (0, {"items": []})


def test_the_nearer_option_wins(env: dict[str, str]) -> None:
    with scripted(answer(200, {"items": []})) as server:
        told = run("-p", "far", "keys", "list", "-p", "near", "--url", server.url, env=env)
        assert told.returncode == 0
        assert server.lines == ["GET /falaj/v1/keys?project=near HTTP/1.1"]


def test_ctrl_c_is_quiet(env: dict[str, str]) -> None:
    with scripted([(20.0, b"")]) as server:
        process = subprocess.Popen(
            [*FALAJ, "keys", "list", "--url", server.url], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 20
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stdout == b""
    assert stderr.strip() == b""


def test_a_defect_is_a_sentence_and_a_trace_only_when_asked_for(env: dict[str, str]) -> None:
    with scripted(answer(200, {"surprise": 1})) as server:
        env["FALAJ_URL"] = server.url
        told = run_process("keys", "list", env=env)
        assert told.returncode == 1
        assert b"Traceback" not in told.stderr
        assert b"FALAJ_DEBUG=1" in told.stderr
        told = run_process("keys", "list", env={**env, "FALAJ_DEBUG": "1"})
        assert told.returncode == 1
        assert b"Traceback" in told.stderr


def test_output_is_utf8_in_any_locale(env: dict[str, str]) -> None:
    item = {"id": "1", "name": "مفتاح", "project": None, "created_at": "2026-01-01T00:00:00Z"}
    with scripted(answer(200, {"items": [item]})) as server:
        told = run_process(
            "keys", "list", env={**env, "FALAJ_URL": server.url, "PYTHONIOENCODING": "latin-1", "LC_ALL": "C"}
        )
    assert told.returncode == 0, told.stderr
    assert "مفتاح" in told.stdout.decode("utf-8")


def test_a_closed_pipe_is_quiet(env: dict[str, str]) -> None:
    items = [{"id": str(n), "name": "n" * 100, "project": None, "created_at": "2026-01-01"} for n in range(5000)]
    with scripted(answer(200, {"items": items})) as server:
        command = " ".join([*FALAJ, "keys", "list", "--json", "--url", server.url]) + " | head -n 1"
        done = subprocess.run(["sh", "-c", command], env=env, capture_output=True, timeout=30, check=False)
    assert done.stdout == b"{\n"
    assert b"Traceback" not in done.stderr


def test_errors_are_not_coloured_where_nobody_wants_it(env: dict[str, str]) -> None:
    code, shown = on_terminal("get", "buckets", env={**env, "NO_COLOR": "1"})
    assert code == 7
    assert "\x1b[" not in shown
    _, shown = on_terminal("get", "buckets", env={name: value for name, value in env.items() if name != "NO_COLOR"})
    assert "\x1b[1merror:" in shown


def test_wrong_settings_are_told_by_name(env: dict[str, str], tmp_path: Path) -> None:
    del env["FALAJ_URL"]
    told = run_process("get", "buckets", env={**env, "FALAJ_PORT": "seven"})
    assert told.returncode == 2
    assert b"FALAJ_PORT" in told.stderr
    (tmp_path / "falaj.toml").write_text("prot = 3\n")
    told = run_process("get", "buckets", env=env)
    assert told.returncode == 2
    assert b"did you mean 'port'" in told.stderr


def test_the_entry_point_is_installed() -> None:
    script = Path(sys.executable).with_name("falaj")
    assert os.access(script, os.X_OK)
