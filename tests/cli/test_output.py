from __future__ import annotations

import io
import json

import pytest

from falaj.cli.output import Output, RunningText
from falaj.cli.text import ISOLATE, POP


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def a_terminal_of_a_known_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")


def test_json_is_the_text_itself() -> None:
    stdout = Terminal()
    Output(as_json=True, stdout=stdout).document({"answer": "مرحبا é", "n": 1})
    assert json.loads(stdout.getvalue()) == {"answer": "مرحبا é", "n": 1}
    assert "مرحبا" in stdout.getvalue()
    assert ISOLATE not in stdout.getvalue()


def test_a_pipe_gets_whole_lines_without_colours_or_isolates() -> None:
    stdout = io.StringIO()
    out = Output(stdout=stdout)
    out.table(("NAME", "MESSAGE"), [("a", "long " * 100), ("مرحبا", None)])
    out.text("x" * 500, style="bold red")
    lines = stdout.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[1].rstrip().endswith("long")
    assert lines[2].split() == ["مرحبا", "-"]
    assert "\x1b" not in stdout.getvalue()
    assert ISOLATE not in stdout.getvalue()


def test_a_terminal_gets_isolates_and_folded_lines() -> None:
    stdout = Terminal()
    out = Output(stdout=stdout)
    out.table(("NAME", "MESSAGE"), [("مرحبا", "ready"), ("handbook", "long " * 30)])
    assert f"{ISOLATE}مرحبا{POP}" in stdout.getvalue()
    assert len(stdout.getvalue().splitlines()) > 3


def test_columns_stay_where_they_are_beside_arabic() -> None:
    stdout = Terminal()
    Output(stdout=stdout).table(("NAME", "STATE"), [("مرحبا", "ready"), ("hello", "ready")])
    arabic, english = stdout.getvalue().splitlines()[1:3]
    assert arabic.replace(ISOLATE, "").replace(POP, "").index("ready") == english.index("ready")


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, plain = Terminal(), Terminal()
    Output(stdout=coloured).text("text", style="red")
    monkeypatch.setenv("NO_COLOR", "1")
    Output(stdout=plain).text("text", style="red")
    assert "\x1b[31m" in coloured.getvalue()
    assert "\x1b[31m" not in plain.getvalue()


def test_text_of_others_is_neither_markup_nor_control() -> None:
    stdout = Terminal()
    out = Output(stdout=stdout)
    out.text("[red]a[/red] :smile: \x1b]0;title\x07b")
    out.table(("A",), [("[bold]\x1b[2J",)])
    assert "[red]a[/red] :smile: ]0;titleb" in stdout.getvalue()
    assert "\x1b[2J" not in stdout.getvalue()


def test_notes_go_to_stderr_alone() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    out = Output(stdout=stdout, stderr=stderr)
    out.note("look")
    with out.progress() as progress:
        progress.advance(progress.add_task("x", total=2))
    assert stdout.getvalue() == ""
    assert stderr.getvalue() == "look\n"


def test_running_text_has_one_isolate_a_line() -> None:
    stdout = Terminal()
    with RunningText(Output(stdout=stdout)) as running:
        for piece in ("مر", "حبا\nworld", " \x1b[2J", "", "\n\n", "end"):
            running.write(piece)
    assert stdout.getvalue() == f"{ISOLATE}مرحبا{POP}\n{ISOLATE}world [2J{POP}\n\n{ISOLATE}end{POP}\n"
