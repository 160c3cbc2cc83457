"""``falaj settings`` and ``falaj version``."""

from __future__ import annotations

import os
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from falaj.cli.session import Session, with_session

#: What the command reads from the environment besides the settings.
ENVIRONMENT = {
    "FALAJ_URL": "Address of the region, where it is not the one of these settings.",
    "FALAJ_API_KEY": "API key; HOME/secrets/admin.key when not given.",
    "FALAJ_PROJECT": "Project, where a command needs one and none is named.",
    "FALAJ_DEBUG": "1 shows Python tracebacks of errors.",
    "NO_COLOR": "Anything: no colours.",
}


@click.command()
@with_session
def settings(session: Session) -> None:
    """Show the settings in force, and where each came from.

    The first that names a setting wins: flag, environment (FALAJ_…), falaj.toml in the current folder, falaj.toml in
    the home folder, default.
    """
    rows = [
        {"name": name, "value": value, "source": source}
        for (name, value), source in zip(
            session.settings.model_dump(mode="json").items(), _sources(session), strict=True
        )
    ]
    if session.out.as_json:
        session.out.document({"items": rows})
        return
    session.out.table(("SETTING", "VALUE", "FROM"), [(row["name"], row["value"], row["source"]) for row in rows])


def _sources(session: Session) -> list[str]:
    """Where the value of each setting came from, in the order of the fields."""
    variables = {name.upper(): name for name in os.environ}  # the environment is read in any case
    files = [(path, _names(path)) for path in (Path("falaj.toml"), session.settings.home / "falaj.toml")]
    sources = []
    for name in type(session.settings).model_fields:
        variable = variables.get(f"FALAJ_{name.upper()}")
        if name == "home" and session.home is not None:
            sources.append("--home")
        elif variable is not None:
            sources.append(variable)
        else:
            sources.append(next((str(path.absolute()) for path, names in files if name in names), "default"))
    return sources


def _names(path: Path) -> frozenset[str]:
    """The settings that a falaj.toml names; the settings were loaded, so it is TOML or is not there."""
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return frozenset()
    return frozenset(content)


@click.command()
@with_session
def version(session: Session) -> None:
    """Print the version."""
    installed = metadata.version("falaj")
    if session.out.as_json:
        session.out.document({"version": installed})
    else:
        session.out.raw(f"falaj {installed}")
