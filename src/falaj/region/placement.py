"""Placement: which site something runs or rests on."""

from __future__ import annotations

from collections.abc import Sequence

from falaj.errors import NotFound, Transient, nearest
from falaj.region.resource import Resource

RETRY_SECONDS = 5.0


def place(sites: Sequence[Resource], wanted: str | None) -> str:
    """The name of a ready data site: the wanted one, or the first by name.

    The choice does not depend on load, so that the same question has the same answer; a controller keeps it in its
    status and asks again only when the site is gone.

    Args:
        sites: every resource of kind Site.
        wanted: the site that the spec names, if it names one.

    Raises:
        NotFound: the wanted site does not exist or holds no data, or the region has no data site.
        Transient: the site exists, but is not ready now.
    """
    data = sorted(site.metadata.name for site in sites if site.spec.role == "data" and not site.deleting)
    ready = {site.metadata.name for site in sites if site.status.ready}
    if wanted is not None and wanted not in data:
        if any(site.metadata.name == wanted and not site.deleting for site in sites):
            raise NotFound(f"site {wanted!r} is a witness: it holds no data", hint=f"data sites: {', '.join(data)}")
        raise NotFound(f"there is no site {wanted!r}", hint=nearest(wanted, data))
    if not data:
        raise NotFound("the region has no data site", hint="declare a Site with role data")
    for name in data if wanted is None else [wanted]:
        if name in ready:
            return name
    what = f"site {wanted!r} is not ready" if wanted is not None else "no data site is ready"
    raise Transient(what, hint="see `falaj status`", retry_after_seconds=RETRY_SECONDS)
