"""Declarations: every mistake is told, with its place and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from falaj.errors import FalajError, Invalid
from falaj.region.declaration import declare, together
from falaj.region.manifest import Located
from falaj.region.resource import Key
from tests.conftest import KINDS
from tests.region.declare import agent, bucket, knowledge_base, manifest

E5 = "multilingual-e5-small"


def refused(written: Any, **keywords: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        declare(written, KINDS, **keywords)
    return caught.value


def test_defaults_and_references() -> None:
    declared = declare(agent("helper", "handbook", "handbook"), KINDS)
    assert declared.key == Key("Agent", "p", "helper")
    assert declared.spec.passages_max == 3  # type: ignore[attr-defined]
    assert declared.references == (Key("Endpoint", "system", "chat"), Key("KnowledgeBase", "p", "handbook"))


def test_the_project_of_the_key_is_the_default() -> None:
    assert declare(bucket("b", ""), KINDS, project="mine").key == Key("Bucket", "mine", "b")


def test_an_unknown_field_is_told_with_the_nearest() -> None:
    error = refused(Located(dict(bucket("b", versionning=True)), "b.yaml:3"))
    assert (error.where, error.message) == ("b.yaml:3: spec.versionning", "is not a field")
    assert error.hint == "did you mean 'versioning'?"


def test_the_nearest_is_looked_for_where_the_field_stands() -> None:
    written = manifest("KnowledgeBase", "k", "p", sources=[{"bucket": "a"}, {"bucket": "b", "prefx": "x"}])
    error = refused(written)
    assert (error.where, error.hint) == ("document 1: spec.sources[1].prefx", "did you mean 'prefix'?")
    hub = manifest("Model", "m", sources={"hub": [{"repository": "a/b", "file": "f", "revison": "x"}]}, catalogue=E5)
    assert refused(hub).hint == "did you mean 'revision'?"


def test_a_wrong_type_says_what_was_expected_and_found() -> None:
    error = refused(bucket("b", versioning="perhaps"))
    assert error.where == "document 1: spec.versioning"
    assert "must be a valid boolean" in error.message
    assert "'perhaps'" in error.message
    assert "greater than or equal to 1" in refused(bucket("b", size_bytes_max=0)).message
    assert refused(knowledge_base("k")).where == "document 1: spec.sources"
    assert refused(manifest("Site", "s", jurisdiction="AE", role="date")).hint == "did you mean 'data'?"


def test_all_problems_are_told_together() -> None:
    written = {**bucket("Bad_Name", versionning=1, size_bytes_max="x"), "specs": 1, "apiVersion": "v1"}
    error = refused(written, nth=7)
    assert error.message.startswith("5 problems: ")
    for part in ("specs: is not a part", "must be falaj/v1, not 'v1'", "metadata.name: 'Bad_Name' is not a name",
                 "spec.versionning: is not a field", "spec.size_bytes_max: must be a valid integer"):  # fmt: skip
        assert part in error.message
    assert error.where.startswith("document 7: ")


@pytest.mark.parametrize(
    ("written", "where", "text"),
    [
        ({}, "document 1: kind", "must name a kind"),
        ({"kind": "Bukcet"}, "document 1: kind", "did you mean 'Bucket'?"),
        ({"kind": ["Bucket"]}, "document 1: kind", "must name a kind"),
        ({"apiVersion": "falaj/v1", "kind": "Bucket"}, "document 1: metadata", "must be a mapping, not nothing"),
        ({**bucket("b"), "spec": [1]}, "document 1: spec", "must be a mapping, not a list"),
        ({**bucket("b"), "metadata": {"project": "p"}}, "document 1: metadata.name", "is missing"),
        (bucket("b", ""), "document 1: metadata.project", "belongs to a project"),
        (manifest("Site", "s", "p", jurisdiction="AE"), "document 1: metadata.project", "belongs to the region"),
        (bucket("a.b"), "document 1: metadata.name", "is not a name"),
        (manifest("Model", "m"), "document 1: spec", "give 'catalogue'"),
        ({**bucket("b"), "metadata": {"name": "b", "project": "p", "labels": {"a": 1}}},
         "document 1: metadata.labels.a", "must be a valid string, not 1"),
    ],
)  # fmt: skip
def test_other_mistakes(written: Any, where: str, text: str) -> None:
    error = refused(written)
    assert error.where == where
    assert text in str(error)


def test_dots_are_for_kinds_that_take_them() -> None:
    assert declare(manifest("Model", "qwen2.5-coder", catalogue=E5), KINDS).key.name == "qwen2.5-coder"


def test_several_refusals_become_one() -> None:
    errors: list[FalajError] = [Invalid(f"wrong {n}", where=f"document {n}", hint="h") for n in range(1, 13)]
    assert together(errors[:1]) is errors[0]
    told = together(errors)
    assert told.message.startswith("12 manifests were refused, so none was applied:\n  document 1: wrong 1")
    assert told.message.endswith("and 2 more")
