"""Sites with a real supervisor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sites import Site


@pytest.fixture
def site() -> Iterator[Site]:
    """A site of the test's own whose supervisor is not started yet."""
    made = Site()
    yield made
    made.remove()


@pytest.fixture
def running_site(site: Site) -> Site:
    """The same, started."""
    site.start()
    return site
