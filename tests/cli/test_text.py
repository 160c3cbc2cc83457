from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.cli.text import ISOLATE, POP, age, duration, isolated, plain, size

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_controls_do_not_reach_a_terminal() -> None:
    assert plain("a\x1b[2Jb\x07\r\n\tc\x9b") == "a[2Jb\n\tc"
    assert plain("abc\u202edcba\u2069\u2066") == "abcdcba"


@given(st.text())
def test_plain_text_has_no_controls_and_keeps_the_rest(text: str) -> None:
    shown = plain(text)
    assert all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in shown)
    assert plain(shown) == shown
    assert [c for c in text if c.isalnum()] == [c for c in shown if c.isalnum()]


def test_right_to_left_lines_are_isolated_and_others_are_not() -> None:
    assert isolated("one\nمرحبا two\n") == f"one\n{ISOLATE}مرحبا two{POP}\n"
    assert isolated("٣ 3") == f"{ISOLATE}٣ 3{POP}", "Arabic-Indic digits run from right to left too"


@given(st.text())
def test_isolates_are_balanced_on_every_line(text: str) -> None:
    for line in isolated(plain(text)).split("\n"):
        assert line.count(ISOLATE) == line.count(POP) <= 1


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (491_400_064, "491.4 MB"), (2e12, "2000.0 GB")],
)
def test_sizes(size_bytes: float, text: str) -> None:
    assert size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (4.24, "4.2 s"), (310, "5m10s"), (3 * 3600 + 125, "3h02m"), (47.5 * 3600, "47h30m"), (1e6, "11d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ages() -> None:
    assert age(None) == ""
    assert age((NOW - timedelta(seconds=5)).isoformat(), now=NOW) == "5s"
    assert age("2026-11-22T11:00:00Z", now=NOW) == "1h00m"
    assert age("2027-01-01T00:00:00+00:00", now=NOW) == "0s", "a clock that is behind shows no negative age"
