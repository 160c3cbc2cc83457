from __future__ import annotations

import click
import pytest

from falaj.cli.options import DURATION, LABEL


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("٥m", 300), ("۱۲", 12), ("١٫٥h", 5400), (" 250MS ", 0.25)],
)
def test_lengths_of_time_in_any_digits(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5", "5 weeks", "1e9", "8d", "nan", "١٫h", "5m5"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


def test_whole_numbers_are_read_in_any_digits() -> None:
    assert click.IntRange(0, 100).convert("٤٢", None, None) == 42


@pytest.mark.parametrize("text", ["a", "=b", ""])
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        LABEL.convert(text, None, None)


def test_a_label_may_hold_equals_signs() -> None:
    assert LABEL.convert("a=b=c", None, None) == "a=b=c"
