"""Queries, bodies and paths in; listings and errors out."""

from datetime import UTC, datetime, timedelta

import pytest

from falaj.errors import Invalid, NotFound
from falaj.protocols.rest import translate, wire
from falaj.region.kinds import PROJECT, SITE
from falaj.region.resource import Key, KindTable, Metadata, Resource
from falaj.services.storage.kinds import BUCKET, BucketSpec, BucketStatus
from falaj.trust.identity import Principal

KINDS = KindTable([SITE, PROJECT, BUCKET])


def principal(project: str | None) -> Principal:
    return Principal(name="tester", key_id="k1", project=project)


def test_bodies_are_checked_and_the_field_that_is_wrong_is_named() -> None:
    assert translate.body(wire.SearchBody, {"query": " أين ", "limit": 3}).query == "أين"
    with pytest.raises(Invalid) as refused:
        translate.body(wire.SearchBody, {"query": "a", "limits": 3})
    assert refused.value.where == "limits"
    assert "limit" in refused.value.hint
    for wrong in ({}, {"query": ""}, {"query": "a", "limit": 0}, {"query": "a" * 8193}, {"query": 5}):
        with pytest.raises(Invalid):
            translate.body(wire.SearchBody, wrong)


def test_a_key_cannot_end_in_the_past() -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert translate.body(wire.KeyBody, {"name": "ci", "expires_at": soon}).expires_at
    with pytest.raises(Invalid, match="past"):
        translate.body(wire.KeyBody, {"name": "ci", "expires_at": "2020-01-01T00:00:00"})


def test_numbers_may_be_written_in_arabic_indic_digits() -> None:
    assert translate.number({"limit": ["٢٥"]}, "limit", 5, 100) == 25
    assert translate.number({}, "limit", 5, 100) == 5
    for wrong in ("-1", "abc", "101", "1e3", "9" * 30, "٫"):
        with pytest.raises(Invalid, match="limit"):
            translate.number({"limit": [wrong]}, "limit", 5, 100)


def test_flags_and_parameters_given_twice() -> None:
    assert translate.flag({"dry_run": ["true"]}, "dry_run")
    assert not translate.flag({}, "dry_run")
    with pytest.raises(Invalid):
        translate.flag({"dry_run": ["maybe"]}, "dry_run")
    with pytest.raises(Invalid, match="2 times"):
        translate.single({"dry_run": ["1", "0"]}, "dry_run")


def test_labels_are_pairs() -> None:
    assert translate.labels({"label": ["team=rcm", "a=b=c"]}) == {"team": "rcm", "a": "b=c"}
    for wrong in ("team", "=x"):
        with pytest.raises(Invalid, match="label"):
            translate.labels({"label": [wrong]})


def test_a_full_page_says_where_the_next_begins() -> None:
    buckets = [
        Resource(BUCKET, Metadata(name=name, project="claims"), BucketSpec(), BucketStatus()) for name in ("a", "b")
    ]
    full = translate.page(buckets, 2)
    assert full["next"] == "claims/b"
    assert translate.after({"after": [full["next"]]}) == ("claims", "b")
    assert translate.page(buckets, 3)["next"] == ""
    assert translate.page([], 3) == {"items": [], "next": ""}
    with pytest.raises(Invalid, match="after"):
        translate.after({"after": ["b"]})


def test_a_manifest_may_leave_out_what_its_path_says_but_not_contradict_it() -> None:
    whole = translate.manifest([{"spec": {}}], BUCKET, "claims", "policies")
    assert whole["kind"] == "Bucket"
    assert whole["metadata"] == {"project": "claims", "name": "policies"}
    contradictions = [
        {"kind": "Model"},
        {"apiVersion": "falaj/v2"},
        {"metadata": {"name": "other"}},
        {"metadata": {"project": "other"}},
        {"metadata": ["name"]},
    ]
    for wrong in contradictions:
        with pytest.raises(Invalid):
            translate.manifest([wrong], BUCKET, "claims", "policies")
    for count in (0, 2):
        with pytest.raises(Invalid, match=str(count)):
            translate.manifest([{}] * count, BUCKET, "claims", "policies")


def test_keys_of_paths_follow_the_naming_rule() -> None:
    assert translate.key(BUCKET, {"project": "claims", "name": "policies"}) == Key("Bucket", "claims", "policies")
    assert translate.key(SITE, {"name": "local-a"}) == Key("Site", "", "local-a")
    with pytest.raises(Invalid):
        translate.key(BUCKET, {"project": "claims", "name": "UPPER"})


def test_a_project_s_key_does_not_learn_whether_another_project_exists() -> None:
    assert translate.own_project(principal(None), "claims") == "claims"
    assert translate.own_project(principal("claims"), "claims") == "claims"
    with pytest.raises(NotFound, match="no project 'other'"):
        translate.own_project(principal("claims"), "other")


def test_events_are_asked_for_by_kind_and_name_together() -> None:
    assert translate.event_key({}, KINDS, None) is None
    assert translate.event_key({"kind": ["site"], "name": ["local-a"]}, KINDS, None) == Key("Site", "", "local-a")
    query = {"kind": ["buckets"], "name": ["policies"]}
    assert translate.event_key(query, KINDS, "claims") == Key("Bucket", "claims", "policies")
    with pytest.raises(Invalid, match="project"):
        translate.event_key(query, KINDS, None)
    with pytest.raises(Invalid, match="together"):
        translate.event_key({"kind": ["bucket"]}, KINDS, None)


def test_only_media_types_are_kept_as_content_types() -> None:
    assert translate.content_type("text/markdown; charset=utf-8") == "text/markdown; charset=utf-8"
    for wrong in ("", "text", "text/html\r\nx: y", "a/b; c=d; e=f", "texte/é"):
        assert translate.content_type(wrong) == "application/octet-stream"
