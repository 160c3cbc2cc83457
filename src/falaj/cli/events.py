"""``falaj events``: what happened to resources, oldest first."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import click

from falaj.cli.client import segments
from falaj.cli.completion import RESOURCE
from falaj.cli.output import Output
from falaj.cli.session import Reference, Session, with_session
from falaj.errors import Transient

PAGE_ITEMS = 200
SHOWN_ITEMS_MAX = 10_000
_LOOK_SECONDS = 1.0


def pages(session: Session, reference: Reference | None, after: int) -> Iterator[list[Mapping[str, Any]]]:
    """The events after that number, a page at a time, until there are no more."""
    about = {"kind": reference.kind.name, "name": reference.name} if reference else {}
    project = reference.project if reference else session.project
    while True:
        query = {"project": project, **about, "after": after, "limit": PAGE_ITEMS}
        items = session.client.get(segments("events"), query)["items"]
        if items:
            yield items
            after = items[-1]["id"]
        if len(items) < PAGE_ITEMS:
            return


def latest(session: Session, reference: Reference | None, count: int) -> tuple[list[Mapping[str, Any]], int]:
    """The last ``count`` events, oldest first, and the number of the last event there is."""
    kept: deque[Mapping[str, Any]] = deque(maxlen=count)
    last = 0
    for page in pages(session, reference, 0):
        kept.extend(page)
        last = page[-1]["id"]
    return list(kept), last


def show_table(out: Output, items: list[Mapping[str, Any]]) -> None:
    """Print events for people."""
    rows = [
        (
            item["at"][:19].replace("T", " "),
            "/".join(part for part in (item["kind"], item["project"], item["name"]) if part),
            item["type"],
            item["reason"],
            item["message"],
        )
        for item in items
    ]
    out.table(("AT (UTC)", "RESOURCE", "TYPE", "REASON", "MESSAGE"), rows)


@click.command()
@click.argument("resource", required=False, type=RESOURCE)
@click.option("-f", "--follow", is_flag=True, help="Go on as more happens, until Ctrl-C; with --json a line each.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(0, SHOWN_ITEMS_MAX),
    default=50,
    show_default=True,
    help="How many of the latest to begin with.",
)
@with_session
def events(session: Session, resource: str | None, follow: bool, count: int) -> None:
    """Show what happened to resources, oldest first; to one resource when it is named."""
    reference = session.reference(resource) if resource else None
    items, after = latest(session, reference, count)
    if not follow:
        if session.out.as_json:
            session.out.document({"items": items})
        else:
            show_table(session.out, items)
        return
    _print_lines(session.out, items)
    while True:
        try:
            for page in pages(session, reference, after):
                _print_lines(session.out, page)
                after = page[-1]["id"]
        except Transient as error:
            session.out.note(f"{error}; waiting for it")
        time.sleep(_LOOK_SECONDS)


def _print_lines(out: Output, items: list[Mapping[str, Any]]) -> None:
    for item in items:
        if out.as_json:
            out.line(item)
            continue
        name = "/".join(part for part in (item["kind"], item["project"], item["name"]) if part)
        out.text(f"{item['at'][:19].replace('T', ' ')}  {name}  {item['reason']}  {item['message']}")
