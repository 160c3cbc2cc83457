"""``falaj keys``: the API keys of a region."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from falaj.cli.client import segments
from falaj.cli.session import Session, with_session

EXPIRES_DAYS_MAX = 3650


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@click.option("--name", required=True, help="What the key is for; shown in listings.")
@click.option("--expires-days", type=click.IntRange(1, EXPIRES_DAYS_MAX), help="Stops working after so many days.")
@with_session
def create(session: Session, name: str, expires_days: int | None) -> None:
    """Make a key and print it: the only time that its secret is shown.

    With -p (or FALAJ_PROJECT) it is good for that project alone, otherwise for the whole region.
    """
    expires_at = datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None
    body = {"name": name, "project": session.project, "expires_at": expires_at.isoformat() if expires_at else None}
    made = session.client.post(segments("keys"), {field: value for field, value in body.items() if value is not None})
    if session.out.as_json:
        session.out.document(made)
        return
    session.out.raw(made["key"])
    until = f"until {made['expires_at'][:10]}" if made.get("expires_at") else "until it is revoked"
    session.out.note(
        f"good for {made.get('project') or 'the whole region'}, {until}; it is not shown again. "
        f"Revoke it with `falaj keys revoke {made['id']}`."
    )


@keys.command(name="list")
@with_session
def list_keys(session: Session) -> None:
    """List the keys, without their secrets."""
    items = session.client.get(segments("keys"), {"project": session.project})["items"]
    if session.out.as_json:
        session.out.document({"items": items})
        return
    rows = [
        (item["id"], item["name"], item.get("project") or "(region)", _day(item["created_at"]), _state(item))
        for item in items
    ]
    session.out.table(("ID", "NAME", "PROJECT", "CREATED", "STATE"), rows)


@keys.command()
@click.argument("key_ids", nargs=-1, required=True, metavar="ID…")
@with_session
def revoke(session: Session, key_ids: tuple[str, ...]) -> None:
    """Revoke keys; they stop working at once, everywhere in the region."""
    for key_id in key_ids:
        session.client.delete(segments("keys", key_id))
        if not session.out.as_json:
            session.out.text(f"{key_id} revoked")
    if session.out.as_json:
        session.out.document({"revoked": list(key_ids)})


def _day(moment: str) -> str:
    return moment[:10]


def _state(item: dict[str, str | None], *, now: datetime | None = None) -> str:
    if revoked_at := item.get("revoked_at"):
        return f"revoked {_day(revoked_at)}"
    expires_at = item.get("expires_at")
    if not expires_at:
        return "good"
    expired = datetime.fromisoformat(expires_at) <= (now or datetime.now(UTC))
    return f"{'expired' if expired else 'good until'} {_day(expires_at)}"
