"""``falaj get``, ``describe`` and ``delete``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
import yaml

from falaj.cli.apply import FILES, named, read_manifests, with_project
from falaj.cli.completion import RESOURCE
from falaj.cli.events import latest, show_table
from falaj.cli.options import DURATION, LABEL
from falaj.cli.output import Output
from falaj.cli.session import KindInfo, Reference, Session, with_session
from falaj.cli.text import age
from falaj.cli.waiting import DELETED, Seen, amount, wait_for
from falaj.errors import Conflict, Invalid, NotFound

_DESCRIBED_EVENTS = 20
_LOOK_SECONDS = 0.3


@click.command()
@click.argument("names", nargs=-1, required=True, type=RESOURCE, metavar="KIND [NAME]… | KIND/NAME…")
@click.option(
    "-o",
    "shape",
    type=click.Choice(["table", "yaml", "json", "name"]),
    default="table",
    show_default=True,
    help="How to print them.",
)
@click.option("-l", "labels", multiple=True, type=LABEL, help="Only those with this label; may be given several times.")
@click.option("--all-projects", is_flag=True, help="Of every project, whatever FALAJ_PROJECT says.")
@with_session
def get(session: Session, *, names: tuple[str, ...], shape: str, labels: tuple[str, ...], all_projects: bool) -> None:
    """List resources, or show one.

    KIND is a kind, its plural or its short form: bucket, buckets, kb. Without a project, those of every project that
    the key may see are listed.
    """
    shape = "json" if session.out.as_json else shape
    if all_projects:
        session.project = None
    if "/" in names[0] or len(names) > 1:
        if labels:
            raise Invalid("-l selects from a list", where="falaj get", hint="leave out the names")
        references = _references(session, names)
        items = [dict(session.client.get(reference.path)) for reference in references]
        if shape == "json" and len(items) == 1:
            session.out.document(items[0])
            return
    else:
        kind = session.kind(names[0])
        project = session.project if kind.of_project else None
        items = [dict(item) for item in session.list(kind, project=project, labels=labels)]
    show(session, items, shape)


def _references(session: Session, names: Sequence[str]) -> list[Reference]:
    """``KIND NAME…`` and ``KIND/NAME…``, as resources."""
    if "/" in names[0]:
        return [session.reference(name) for name in names]
    return [session.reference(f"{names[0]}/{name}") for name in names[1:]]


def show(session: Session, items: list[dict[str, Any]], shape: str) -> None:
    """Print resources in the shape asked for."""
    out = session.out
    if shape == "json":
        out.document({"items": items})
    elif shape == "yaml":
        out.raw(yaml.safe_dump_all(items, sort_keys=False, allow_unicode=True, width=120).rstrip("\n"))
    elif shape == "name":
        for item in items:
            out.raw(str(_reference(session, item)))
    elif not items:
        out.note("there are none")
    else:
        for kind in dict.fromkeys(item["kind"] for item in items):
            _table(out, session.kind(kind), [item for item in items if item["kind"] == kind])


def _reference(session: Session, item: Mapping[str, Any]) -> Reference:
    metadata = item["metadata"]
    return Reference(session.kind(item["kind"]), metadata.get("project", ""), metadata["name"])


def _table(out: Output, kind: KindInfo, items: Sequence[Mapping[str, Any]]) -> None:
    amounts = [amount(item) for item in items]
    columns = [*(["PROJECT"] if kind.of_project else []), "NAME", "READY", *(["DONE"] if any(amounts) else [])]
    rows = []
    for item, counted in zip(items, amounts, strict=True):
        metadata = item["metadata"]
        seen = Seen(Reference(kind, metadata.get("project", ""), metadata["name"]), item)
        ready = seen.condition().get("status", "Unknown")
        rows.append(
            [
                *([metadata.get("project")] if kind.of_project else []),
                metadata["name"],
                ready,
                *([counted] if any(amounts) else []),
                age(metadata.get("createdAt")),
                seen.state,
            ]
        )
    out.table([*columns, "AGE", "STATE"], rows)


@click.command()
@click.argument("names", nargs=-1, required=True, type=RESOURCE, metavar="KIND/NAME | KIND NAME")
@with_session
def describe(session: Session, names: tuple[str, ...]) -> None:
    """Tell everything about one resource: what was declared, what is observed, what happened, what uses it."""
    references = _references(session, names)
    if len(references) != 1:
        raise Invalid("describe tells about one resource", where="falaj describe", hint="falaj describe kind/name")
    reference = references[0]
    resource = session.client.get(reference.path)
    referrers = [named(session, row) for row in session.client.get(f"{reference.path}/referrers")["items"]]
    happened, _ = latest(session, reference, _DESCRIBED_EVENTS)
    if session.out.as_json:
        used_by = [str(referrer) for referrer in referrers]
        session.out.document({"resource": resource, "referrers": used_by, "events": happened})
        return
    _describe(session.out, reference, resource, referrers)
    _heading(session.out, "Events")
    if happened:
        show_table(session.out, happened)
    else:
        session.out.text("  none")


def _describe(out: Output, reference: Reference, resource: Mapping[str, Any], referrers: Sequence[Reference]) -> None:
    metadata, status = resource["metadata"], dict(resource["status"])
    out.text(str(reference), style="bold")
    facts = {
        "labels": ", ".join(f"{key}={value}" for key, value in metadata.get("labels", {}).items()),
        "generation": f"{metadata['generation']} (observed: {status.pop('observedGeneration', 0)})",
        "created": f"{age(metadata.get('createdAt'))} ago" if metadata.get("createdAt") else "",
        "deleting": f"asked {age(metadata['deletionRequestedAt'])} ago" if metadata.get("deletionRequestedAt") else "",
        "used by": ", ".join(map(str, referrers)) or "nothing",
    }
    for name, value in facts.items():
        if value:
            out.text(f"  {name}: {value}")
    conditions = status.pop("conditions", [])
    _heading(out, "Spec")
    out.text(_indented(resource["spec"]))
    _heading(out, "Status")
    out.text(_indented(status))
    _heading(out, "Conditions")
    rows = [(c["type"], c["status"], c["reason"], age(c["since"]), c["message"]) for c in conditions]
    if rows:
        out.table(("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"), rows)
    else:
        out.text("  none reported yet")


def _heading(out: Output, text: str) -> None:
    out.text(f"\n{text}", style="bold")


def _indented(fields: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=110) if fields else "nothing"
    return "\n".join(f"  {line}" for line in text.rstrip("\n").split("\n"))


@click.command()
@click.argument("names", nargs=-1, type=RESOURCE, metavar="[KIND/NAME]…")
@FILES
@click.option("--ignore-missing", is_flag=True, help="What is not there is no error.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until they are gone.")
@click.option("--timeout", type=DURATION, default="2m", show_default=True, help="How long to wait.")
@with_session
def delete(
    session: Session,
    *,
    names: tuple[str, ...],
    sources: tuple[str, ...],
    ignore_missing: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Ask for the deletion of resources, by name or by the files that declare them.

    What others use cannot be deleted; name the users too, and they go first.
    """
    references = [*_named(session, names, ignore_missing), *_declared(session, sources)]
    if not names and not sources:
        raise Invalid("nothing to delete", where="falaj delete", hint="falaj delete kind/name, or -f FILE")
    results = delete_all(session, references, ignore_missing=ignore_missing or bool(sources), seconds_max=timeout)
    if not session.out.as_json:
        for row in results:
            session.out.text(f"{named(session, row)} {row['action']}")
    if wait:
        wait_for(session, references, goal=DELETED, seconds_max=timeout)
    if session.out.as_json:
        session.out.document({"results": results, "gone": wait})
    elif wait and results:
        session.out.text("all gone")


def _named(session: Session, names: Sequence[str], ignore_missing: bool) -> list[Reference]:
    references = []
    for name in names:
        try:
            references.append(session.reference(name))
        except NotFound:
            if not ignore_missing:
                raise
    return references


def _declared(session: Session, sources: Sequence[str]) -> list[Reference]:
    if not sources:
        return []
    references = []
    for where, manifest in with_project(session, read_manifests(sources)):
        kind = session.kind(str(manifest.get("kind", "")))
        metadata = manifest.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        project = str(metadata.get("project", "")) if isinstance(metadata, dict) else ""
        if not isinstance(name, str) or (kind.of_project and not project):
            raise Invalid("the manifest does not say what it is about", where=where, hint="give name and project")
        references.append(Reference(kind, project, name))
    return references[::-1]


def delete_all(
    session: Session, references: Sequence[Reference], *, ignore_missing: bool, seconds_max: float
) -> list[dict[str, Any]]:
    """Ask for every deletion. What is still used by another of them is asked for again once that one is gone.

    Raises:
        Conflict: something that stays uses one of them. NotFound: one is not there, and that is an error.
    """
    results: list[dict[str, Any]] = []
    asked: list[Reference] = []
    going: list[Reference] = []  # of those asked for, what was still there when the round began
    left = list(references)
    deadline = time.monotonic() + seconds_max
    while True:
        refused: list[Reference] = []
        conflict: Conflict | None = None
        for reference in left:
            try:
                action = _ask_deletion(session, reference, ignore_missing)
            except Conflict as error:
                refused.append(reference)
                conflict = error
                continue
            asked.append(reference)
            row = {"kind": reference.kind.name, "project": reference.project, "name": reference.name}
            results.append({**row, "action": action})
        if conflict is None:
            return results
        stuck = not going and len(refused) == len(left)
        if stuck or time.monotonic() > deadline:
            raise conflict
        left = refused
        time.sleep(_LOOK_SECONDS)
        going = [reference for reference in asked if not _gone(session, reference)]


def _ask_deletion(session: Session, reference: Reference, ignore_missing: bool) -> str:
    try:
        session.client.delete(reference.path)
    except NotFound:
        if not ignore_missing:
            raise
        return "missing"
    return "deleting"


def _gone(session: Session, reference: Reference) -> bool:
    try:
        session.client.get(reference.path)
    except NotFound:
        return True
    return False
