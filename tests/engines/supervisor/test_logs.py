"""Logs are appended, rotated, read from their end, and followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from falaj.engines.supervisor import logs


def test_a_log_is_private_and_appended(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "a.log"
    logs.write_line(path, "one")
    logs.write_line(path, "two")
    assert [line.split(" ", 1)[1] for line in path.read_text().splitlines()] == ["one", "two"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_three_old_logs_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    for number in range(5):
        path.write_text(f"{number}" * 100)
        assert logs.rotate(path, 50)
    assert [(tmp_path / f"a.log.{n}").read_text()[0] for n in (1, 2, 3)] == ["4", "3", "2"]
    assert not (tmp_path / "a.log.4").exists()
    assert path.stat().st_size == 0
    assert (tmp_path / "a.log.1").stat().st_mode & 0o777 == 0o600


def test_a_writer_goes_on_at_the_start_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    writer = logs.open_for_append(path)
    os.write(writer, b"x" * 100)
    assert logs.rotate(path, 10)
    os.write(writer, b"after")
    os.close(writer)
    assert path.read_bytes() == b"after"


def test_a_small_or_missing_log_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert not logs.rotate(path, 10)
    path.write_text("small")
    assert not logs.rotate(path, 10)
    assert path.read_text() == "small"


def test_when_the_copy_fails_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("x" * 100)
    (tmp_path / "a.log.copy").mkdir()
    with pytest.raises(OSError, match=r"a\.log\.copy"):
        logs.rotate(path, 10)
    assert path.read_text() == "x" * 100


@pytest.mark.parametrize(("lines", "expected"), [(0, []), (2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_the_tail_is_the_last_lines(tmp_path: Path, lines: int, expected: list[str]) -> None:
    path = tmp_path / "a.log"
    path.write_text("a\nb\nc\n")
    assert logs.tail(path, lines) == expected
    assert logs.tail(tmp_path / "missing.log", lines) == []


def test_the_last_line_says_something(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"first\nthe reason \xff\n\n   \n")
    assert logs.last_line(path) == "the reason �"
    assert logs.last_line(path, characters_max=3) == "the"
    assert logs.last_line(tmp_path / "missing.log") == ""


def test_a_follower_reads_whole_lines_across_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("old\n")
    follower = logs.Follower(path)
    assert follower.last(5) == ["old"]
    with path.open("a") as writer:
        writer.write("new\nhal")
        writer.flush()
        assert follower.new() == ["new"]
        writer.write("f\n")
        writer.flush()
        assert follower.new() == ["half"]
    assert logs.rotate(path, 1)
    assert follower.new() == []
    with path.open("a") as writer:
        writer.write("next\n")
    assert follower.new() == ["next"]
