"""Errors say what, where and what to do, and offer the nearest names."""

import pytest

from falaj import errors
from falaj.errors import FalajError, Transient, nearest

NAMES = ["Invalid", "Denied", "NotFound", "Conflict", "LimitExceeded", "Transient", "Terminal"]
TREE = [getattr(errors, name) for name in NAMES]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_one_of_the_tree_and_known_by_its_name(kind: type[FalajError]) -> None:
    error = kind("the port is taken", where="port 7440", hint="choose another")
    assert error.code == kind.__name__
    assert error.as_dict() == {
        "code": kind.__name__,
        "message": "the port is taken",
        "where": "port 7440",
        "hint": "choose another",
    }
    assert str(error) == "port 7440: the port is taken (choose another)"
    assert str(kind("the port is taken")) == "the port is taken"


def test_the_docstring_draws_the_whole_tree() -> None:
    subclasses = {kind.__name__ for kind in FalajError.__subclasses__() if kind.__module__ == "falaj.errors"}
    assert subclasses == {kind.__name__ for kind in TREE}
    assert all(f"── {name} " in (errors.__doc__ or "") for name in subclasses)


def test_what_may_work_later_says_when() -> None:
    assert Transient("away").retry_after_seconds == 1.0
    assert Transient("away", retry_after_seconds=5).retry_after_seconds == 5


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("bukcet", ["bucket", "model"], "did you mean 'bucket'?"),
        ("modell", ["model", "models"], "did you mean 'model' or 'models'?"),
        ("zzz", ["b", "a"], "known: a, b"),
        ("zzz", [f"name-{number}" for number in range(13)], ""),
        ("zzz", [], ""),
    ],
)
def test_the_nearest_names_are_offered(name: str, known: list[str], hint: str) -> None:
    assert nearest(name, known) == hint
