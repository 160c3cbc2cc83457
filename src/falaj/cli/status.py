"""``falaj status``: the region at a glance, also when only a part of it is up, or nothing."""

from __future__ import annotations

from typing import Any

import click

from falaj.cli.client import segments
from falaj.cli.output import Output
from falaj.cli.session import Session, with_session
from falaj.engines.supervisor.processes import FileProcesses
from falaj.errors import Transient

_SECONDS_MAX = 10.0
_MESSAGE_CHARACTERS_MAX = 160


@click.command()
@with_session
def status(session: Session) -> None:
    """Show whether the region is ready, its sites and engines, and how many resources are.

    Exit code 0 when it is ready, 1 when it is not. When the region does not answer, what this machine knows of its own
    site is shown.
    """
    try:
        seen = session.client.get(segments("status"), seconds_max=_SECONDS_MAX)
    except Transient as error:
        seen = _of_this_machine(session)
        session.out.note(str(error))
    if session.out.as_json:
        session.out.document(seen)
    else:
        show(session.out, seen)
    if not seen["ready"]:
        click.get_current_context().exit(1)


def _of_this_machine(session: Session) -> dict[str, Any]:
    """The status as far as the files of this machine's site tell it, in the shape of the wire."""
    if not session.is_local:
        return {"region": "", "ready": False, "url": session.url, "sites": [], "resources": {}}
    settings = session.settings
    engines = [
        {
            "name": process.name,
            "ready": process.ready,
            "pid": process.pid,
            "port": process.port,
            "restarts": process.restarts,
            "message": process.message,
        }
        for process in FileProcesses(settings.site_dir).observe_all().values()
    ]
    site = {"name": settings.site, "jurisdiction": settings.jurisdiction, "ready": False, "engines": engines}
    sites = [site] if settings.site_dir.is_dir() else []
    return {"region": settings.region, "ready": False, "url": session.url, "sites": sites, "resources": {}}


def show(out: Output, seen: dict[str, Any]) -> None:
    """Print the status for people."""
    name = f"region {seen['region']}" if seen["region"] else "region"
    out.text(f"{name} is {'ready' if seen['ready'] else 'not ready'} at {seen['url']}", style="bold")
    for site in seen["sites"]:
        state = "ready" if site["ready"] else "not ready"
        out.text(f"\nsite {site['name']} ({site['jurisdiction']}) is {state}", style="bold")
        rows = [
            (
                engine["name"],
                "yes" if engine["ready"] else "no",
                engine["pid"],
                engine["port"],
                engine.get("restarts", 0),
                engine.get("message", "")[:_MESSAGE_CHARACTERS_MAX],
            )
            for engine in site["engines"]
        ]
        out.table(("ENGINE", "READY", "PID", "PORT", "RESTARTS", "MESSAGE"), rows)
    if seen["resources"]:
        out.text("")
        counts = [(kind, count["ready"], count["total"]) for kind, count in seen["resources"].items()]
        out.table(("KIND", "READY", "TOTAL"), counts)
