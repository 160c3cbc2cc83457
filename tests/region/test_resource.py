"""The resource model: keys, conditions, the kind table, names."""

from __future__ import annotations

import pytest

from falaj.errors import Invalid
from falaj.region.kinds import SITE, SiteSpec, SiteStatus
from falaj.region.resource import Key, Metadata, Resource, StatusModel, check_name
from tests.conftest import KINDS


def test_a_key_is_read_as_it_is_written() -> None:
    for key in (Key("Site", "", "a"), Key("Bucket", "p", "b")):
        assert Key.parse(str(key)) == key
    for text in ("", "Bucket", "a/b/c/d"):
        with pytest.raises(Invalid, match="is not a resource key"):
            Key.parse(text)


def test_since_moves_only_with_the_status() -> None:
    status = StatusModel()
    assert not status.ready
    status.set_condition("False", "Pulling", "1 of 2")
    first = status.condition()
    status.set_condition("False", "Pulling", "2 of 2")
    second = status.condition()
    status.set_condition("True", "Pulled")
    third = status.condition()
    assert first is not None
    assert second is not None
    assert third is not None
    assert (second.since, second.message) == (first.since, "2 of 2")
    assert third.since > second.since
    assert status.ready
    status.set_condition("Unknown", "Far", type_="Reachable")
    assert [condition.type for condition in status.conditions] == ["Ready", "Reachable"]


def test_a_kind_is_found_by_any_word() -> None:
    assert {KINDS.get(word).name for word in ("KnowledgeBase", "knowledgebases", "KB", "knowledgebase")} == {
        "KnowledgeBase"
    }
    with pytest.raises(Invalid) as caught:
        KINDS.get("Buket")
    assert caught.value.hint == "did you mean 'Bucket'?"


@pytest.mark.parametrize("name", ["a", "a1", "1a", "a-b", "a" * 40])
def test_names(name: str) -> None:
    assert check_name(name, where="x") == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a.b", "a_b", "a/b", "é", "a" * 41, "a\n", "a b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(Invalid, match="is not a name"):
        check_name(name, where="x")


def test_dots_where_they_are_taken() -> None:
    assert check_name("qwen2.5", where="x", dotted=True) == "qwen2.5"
    with pytest.raises(Invalid):
        check_name(".a", where="x", dotted=True)


def test_a_resource_is_a_manifest_with_a_status() -> None:
    resource = Resource(SITE, Metadata(name="a"), SiteSpec(jurisdiction="AE"), SiteStatus())
    assert resource.key == Key("Site", "", "a")
    assert not resource.deleting
    shown = resource.as_dict()
    assert list(shown) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert shown["spec"] == {"jurisdiction": "AE", "role": "data"}
