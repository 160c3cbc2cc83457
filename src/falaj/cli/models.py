"""``falaj models``: what the catalogue holds, what the region holds, and bringing the one into the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from falaj.cli.apply import declare
from falaj.cli.client import segments
from falaj.cli.options import DURATION
from falaj.cli.session import Reference, Session, with_session
from falaj.cli.text import duration, size
from falaj.cli.waiting import Seen, amount, timed, wait_for
from falaj.errors import NotFound

API_VERSION = "falaj/v1"


@click.group()
def models() -> None:
    """See the model catalogue; pull models."""


@models.command(name="list")
@with_session
def list_models(session: Session) -> None:
    """List the models of the catalogue, and those that were declared without it."""
    entries = {entry["name"]: entry for entry in session.client.get(segments("catalogue"))["items"]}
    kind = session.kind("Model")
    rows: list[dict[str, Any]] = []
    declared: dict[str, list[Seen]] = {}
    for item in session.list(kind):
        seen = Seen(Reference(kind, "", item["metadata"]["name"]), item)
        declared.setdefault(item["spec"].get("catalogue") or "", []).append(seen)
    for name, entry in entries.items():
        held = declared.get(name, [])
        rows += [{**entry, **_held(seen)} for seen in held] or [{**entry, "model": None, "state": "not pulled"}]
    rows += [{**_own(seen), **_held(seen)} for name, held in declared.items() if name not in entries for seen in held]
    if session.out.as_json:
        session.out.document({"items": rows})
        return
    session.out.table(
        ("NAME", "TASK", "SIZE", "LICENCE", "LANGUAGES", "STATE"),
        [
            (
                row["model"] or row["name"],
                row["task"],
                size(row["size_bytes"]) if row["size_bytes"] else "bundled",
                row["licence"],
                " ".join(row["languages"] or ()),
                row["state"],
            )
            for row in rows
        ],
    )


def _held(seen: Seen) -> dict[str, Any]:
    assert seen.resource is not None
    counted = amount(seen.resource)
    ready = seen.reached("Ready")
    state = "ready" if ready else f"{counted}, {seen.state}" if counted else seen.state
    return {"model": seen.reference.name, "pulled": ready, "state": state}


def _own(seen: Seen) -> dict[str, Any]:
    """A declared model that no entry of the catalogue stands for, in the fields of one."""
    assert seen.resource is not None
    spec = seen.resource["spec"]
    fields = ("task", "size_bytes", "licence", "languages", "context_tokens_max")
    return {"name": seen.reference.name, **{field: spec.get(field) for field in fields}}


@models.command()
@click.argument("name")
@click.option("--timeout", type=DURATION, default="1h", show_default=True, help="How long to wait for it.")
@with_session
def pull(session: Session, name: str, timeout: float) -> None:
    """Bring a model of the catalogue into the region and wait until its SHA-256 was checked.

    It is declared when it is not yet; an interrupted pull goes on where it stopped.
    """
    reference = Reference(session.kind("Model"), "", name)
    try:
        session.client.get(reference.path)
    except NotFound:
        manifest = {"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": name}, "spec": {"catalogue": name}}
        declare(session, [(f"falaj models pull {name}", manifest)])
    (seen,), seconds = timed(lambda: wait_for(session, [reference], seconds_max=timeout))
    assert seen.resource is not None
    facts = _pulled(name, seen.resource, seconds)
    if session.out.as_json:
        session.out.document(facts)
    elif facts["source"] != "bundled":
        session.out.text(
            f"{name}: {size(facts['size_bytes'])} from {facts['source']}, SHA-256 matched "
            f"({facts['sha256'][:12]}…), {duration(seconds)}"
        )
    else:
        session.out.text(f"{name}: ready, its weights are bundled with the engine")


def _pulled(name: str, resource: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    status = resource["status"]
    return {
        "name": name,
        "source": status.get("source", ""),
        "path": status.get("path", ""),
        "size_bytes": status.get("bytes_total", 0),
        "sha256": status.get("sha256", ""),
        "seconds": round(seconds, 3),
    }
