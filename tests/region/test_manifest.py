"""Manifests: what is read, and what is refused, where and within which limits."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.errors import FalajError, Invalid, LimitExceeded
from falaj.region.manifest import SIZE_BYTES_MAX, Located, parse

BUCKET = """\
apiVersion: falaj/v1
kind: Bucket
metadata: {project: claims, name: policies}
spec: {versioning: true}
"""


def test_several_documents_know_their_place() -> None:
    first, second = parse(f"# a comment\n{BUCKET}---\n---\n{BUCKET}", where="a.yaml")
    assert first == second
    assert first["metadata"] == {"project": "claims", "name": "policies"}
    assert isinstance(first, Located)
    assert isinstance(second, Located)
    assert (first.where, second.where) == ("a.yaml:2", "a.yaml:8")


def test_scalars_follow_the_core_schema() -> None:
    (read,) = parse(
        "{a: NO, b: on, c: true, d: null, e: ~, f: 12, g: -1.5e3, h: 2026-01-02, i: '7', j: !!str 7, k: 0o17,"
        " l: ٤٢, m: ٣٫٥, n: }",
        where="x",
    )
    expected = {"a": "NO", "b": "on", "c": True, "d": None, "e": None, "f": 12, "g": -1500.0, "h": "2026-01-02"}
    assert read == {**expected, "i": "7", "j": "7", "k": "0o17", "l": 42, "m": 3.5, "n": None}


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda key: "\x7f" not in key),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_json_is_read_as_json(value: dict[str, Any]) -> None:
    assert parse(json.dumps(value), where="body") == [value]


@given(st.binary(max_size=200) | st.text(max_size=200) | st.text("{}[]:,-&*!|>'\"\n #?%@", max_size=60))
def test_nothing_but_our_errors_comes_out(text: bytes | str) -> None:
    with contextlib.suppress(FalajError):
        parse(text, where="fuzz")


def test_a_yaml_bomb_is_refused_at_the_first_alias() -> None:
    levels = "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    with pytest.raises(Invalid, match="aliases") as caught:
        parse(f"a: &a [lol]\n{levels}\n", where="bomb.yaml")
    assert caught.value.where == "bomb.yaml:2:8"


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000, "a:\n" * 3 + "? " * 100_000])
def test_depth_is_bounded(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(FalajError):
        parse(text, where="deep.yaml")
    assert time.monotonic() - started < 2


def test_size_is_bounded() -> None:
    started = time.monotonic()
    with pytest.raises(LimitExceeded, match=r"10,485,760 bytes; at most 1,048,576"):
        parse("#" * (10 << 20), where="big.yaml")
    assert time.monotonic() - started < 1
    assert parse(BUCKET + "#" * (2 << 20), where="big.yaml", size_bytes_max=4 << 20)


def test_a_thousand_small_documents_fit() -> None:
    text = "---\n".join(BUCKET.replace("policies", f"bucket-{n:04}") for n in range(1000))
    assert len(text) < SIZE_BYTES_MAX
    started = time.monotonic()
    assert len(parse(text, where="many.yaml")) == 1000
    assert time.monotonic() - started < 3


def test_counts_are_bounded() -> None:
    with pytest.raises(LimitExceeded, match="2,000 documents"):
        parse("---\n{}\n" * 2001, where="many.yaml")
    with pytest.raises(LimitExceeded, match="200,000 values"):
        parse("a: [" + "1," * 300_000 + "]", where="wide.yaml")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("kind: Bucket\nspec: {a: 1, a: 2}\n", "f:2:14", "'a' is written twice"),
        ("kind: [Bucket\n", "f:2:1", "not valid YAML"),
        ("a: b: c\n", "f:1:5", "not valid YAML"),
        ("- a\n- b\n", "f:1:1", "a manifest is a mapping, this is a list"),
        ("hello\n", "f:1:1", "single value ('hello')"),
        ("a: !!python/object/apply:os.system [id]\n", "f:1:4", "tag"),
        ("a: !secret x\n", "f:1:4", "tag"),
        ("[a]: b\n", "f:1:1", "a key must be text"),
        ("# nothing\n", "f", "no manifest"),
        (b"a: \xff\n", "f", "byte 3 is not UTF-8"),
        ("a: \x07\n", "f", "not valid YAML"),
    ],
)  # fmt: skip
def test_errors_say_where(text: str | bytes, place: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text, where="f")
    assert message in caught.value.message
    assert caught.value.where == place
