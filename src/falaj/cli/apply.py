"""``falaj apply``: reads manifests from files, folders and stdin, and declares them in one call."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click

from falaj.cli.client import segments
from falaj.cli.options import DURATION
from falaj.cli.session import Reference, Session, with_session
from falaj.cli.waiting import READY, report, timed, wait_for
from falaj.errors import Denied, FalajError, Invalid, LimitExceeded, NotFound

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
FILES_MAX = 1000
_NOT_IN_YAML = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_PLACE_IN_BODY = re.compile(r"\bbody:(\d+)(:\d+)?")

Located = tuple[str, dict[str, Any]]
"""A manifest, and where it was written: ``agents.yaml:14``."""

FILES = click.option(
    "-f",
    "--file",
    "sources",
    multiple=True,
    metavar="FILE|FOLDER|-",
    help="A manifest, a folder of them (searched through), or - for stdin; may be given several times.",
)


def read_manifests(sources: Sequence[str], *, stdin: BinaryIO | None = None) -> list[Located]:
    """Every manifest of the sources; folders are read in the order of their paths.

    Raises:
        NotFound: there is no such file. Denied: it may not be read. Invalid: it is not a manifest.
        LimitExceeded: too many files, or too large.
    """
    from falaj.region import manifest  # noqa: PLC0415 -- brings Pydantic, which `--help` must not cost

    found: list[Located] = []
    left = manifest.SIZE_BYTES_MAX
    for path in _paths(sources):
        text = _read(path, left, stdin)
        left -= len(text)
        where = "stdin" if path is None else str(path)
        found += [(getattr(given, "where", where), dict(given)) for given in manifest.parse(text, where=where)]
    if not found:
        raise Invalid("there is no manifest in what was given", where=", ".join(sources), hint="see examples/")
    return found


def _paths(sources: Sequence[str]) -> list[Path | None]:
    """The files meant; None stands for stdin."""
    paths: list[Path | None] = []
    for source in sources:
        if source == "-":
            paths.append(None)
            continue
        path = Path(source)
        paths += sorted(_inside(path)) if path.is_dir() else [path]
        if len(paths) > FILES_MAX:
            raise LimitExceeded(f"more than {FILES_MAX} manifest files", where=source, hint="apply part of them")
    return paths


def _inside(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def _read(path: Path | None, bytes_max: int, stdin: BinaryIO | None) -> bytes:
    try:
        if path is None:
            content = (stdin or sys.stdin.buffer).read(bytes_max + 1)
        else:
            with path.open("rb") as file:
                content = file.read(bytes_max + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", where="-f", hint="give a file or a folder of manifests") from error
    except PermissionError as error:
        raise Denied(f"{path} may not be read", where="-f", hint="give it to the account that runs falaj") from error
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}", where="-f") from error
    if len(content) > bytes_max:
        raise LimitExceeded(
            "the manifests together are larger than the 1 MiB that a region takes at once",
            where=str(path or "stdin"),
            hint="apply them in several parts",
        )
    return content


def with_project(session: Session, manifests: Sequence[Located]) -> list[Located]:
    """The manifests with ``-p`` filled in where they name no project.

    Raises:
        Invalid: a manifest names another project than ``-p``.
    """
    if session.project is None:
        return list(manifests)
    of_project = {kind.name for kind in session.kinds.values() if kind.of_project}
    filled = []
    for where, given in manifests:
        manifest, metadata = given, given.get("metadata")
        if given.get("kind") in of_project and isinstance(metadata, dict):
            own = metadata.get("project") or session.project
            if own != session.project:
                raise Invalid(
                    f"{manifest['kind']} {metadata.get('name')!r} is declared for the project {own!r}, "
                    f"and -p or FALAJ_PROJECT says {session.project!r}",
                    where=where,
                    hint="leave one of them out",
                )
            manifest = {**given, "metadata": {**metadata, "project": own}}
        filled.append((where, manifest))
    return filled


def declare(session: Session, manifests: Sequence[Located], *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Declare the manifests, all or none; the outcomes in their order.

    Each is sent as a document of one line, so that an error about line 3 of the body can be told about the file that
    holds the third manifest. Declaring twice changes nothing: the call is repeated when its answer was lost.
    """
    body = "".join(f"--- {_line(manifest)}\n" for _, manifest in manifests).encode()
    query = {"dry_run": "true"} if dry_run else {}
    try:
        answer = session.client.post(segments("apply"), body, query, content_type="application/yaml", repeatable=True)
    except FalajError as error:
        places = [where for where, _ in manifests]
        error.where, error.message = _in_files(error.where, places), _in_files(error.message, places)
        raise
    results: list[dict[str, Any]] = answer["results"]
    return results


def _line(manifest: dict[str, Any]) -> str:
    """The manifest as JSON on one line that YAML reads as the same: what YAML does not take as it is, is escaped."""
    text = json.dumps(manifest, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _in_files(text: str, places: Sequence[str]) -> str:
    """``text`` with each place in the body replaced by the place that the person wrote."""

    def place(match: re.Match[str]) -> str:
        line = int(match[1])
        return places[line - 1] if 0 < line <= len(places) else match[0]

    return _PLACE_IN_BODY.sub(place, text)


def named(session: Session, row: dict[str, Any]) -> Reference:
    """The resource that an outcome, an event or a referrer is about."""
    return Reference(session.kind(row["kind"]), row["project"], row["name"])


@click.command()
@FILES
@click.option("--dry-run", is_flag=True, help="Check everything and say what would happen; change nothing.")
@click.option("--wait", is_flag=True, help="Wait until what was declared is ready.")
@click.option("--timeout", type=DURATION, default="5m", show_default=True, help="How long --wait waits.")
@with_session
def apply(session: Session, *, sources: tuple[str, ...], dry_run: bool, wait: bool, timeout: float) -> None:
    """Declare resources from files; all of them or none.

    What exists is brought to what the file says; what is the same already is left alone.
    """
    if not sources:
        raise Invalid("nothing to apply", where="falaj apply", hint="name a file or a folder: falaj apply -f FILE")
    if dry_run and wait:
        raise Invalid("a dry run declares nothing to wait for", where="falaj apply", hint="leave out --wait")
    manifests = with_project(session, read_manifests(sources))
    results = declare(session, manifests, dry_run=dry_run)
    if not session.out.as_json:
        action = "would be {}" if dry_run else "{}"
        for row in results:
            session.out.text(f"{named(session, row)} {action.format(row['action'])}")
    if wait:
        references = [named(session, row) for row in results]
        seen, seconds = timed(lambda: wait_for(session, references, seconds_max=timeout))
        report(session, seen, goal=READY, seconds=seconds, more={"results": results})
    elif session.out.as_json:
        session.out.document({"results": results})
