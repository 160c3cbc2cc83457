"""Placement: a ready data site, or an error that says why there is none."""

from __future__ import annotations

import pytest

from falaj.errors import NotFound, Transient
from falaj.region.kinds import SITE, SiteSpec, SiteStatus
from falaj.region.placement import place
from falaj.region.resource import Metadata, Resource


def site(name: str, *, ready: bool = True, role: str = "data") -> Resource:
    status = SiteStatus()
    status.set_condition("True" if ready else "False", "Observed")
    spec = SiteSpec.model_validate({"jurisdiction": "AE", "role": role})
    return Resource(SITE, Metadata(name=name), spec, status)


SITES = [site("c"), site("a", ready=False), site("b"), site("w", role="witness")]


def test_the_first_ready_data_site_or_the_wanted_one() -> None:
    assert place(SITES, None) == "b"
    assert place(SITES, "c") == "c"


@pytest.mark.parametrize(
    ("sites", "wanted", "error", "message"),
    [
        (SITES, "a", Transient, "'a' is not ready"),
        (SITES, "bb", NotFound, "no site 'bb'"),
        (SITES, "w", NotFound, "witness"),
        ([site("a", ready=False)], None, Transient, "no data site is ready"),
        ([], None, NotFound, "no data site"),
    ],
)
def test_errors(sites: list[Resource], wanted: str | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        place(sites, wanted)
