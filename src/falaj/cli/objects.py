"""``falaj objects``: the objects of a bucket, over the REST wire; S3 clients get their credentials here too."""

from __future__ import annotations

import mimetypes
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import click
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

from falaj.cli.client import segments
from falaj.cli.session import Session, with_session
from falaj.cli.text import age, size
from falaj.errors import Conflict, Denied, FalajError, Invalid, LimitExceeded, NotFound

FILES_MAX = 100_000
KEY_BYTES_MAX = 1024  # S3's own limit
LISTED_MAX = 1_000_000
#: Types that the machine's own table may lack, so that a document has the same type from everywhere.
_TYPES = {".md": "text/markdown", ".markdown": "text/markdown", ".txt": "text/plain", ".pdf": "application/pdf"}

BUCKET = click.option("-b", "--bucket", required=True, metavar="NAME", help="The bucket.")


@click.group()
def objects() -> None:
    """Put, get and list the objects of buckets."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file and the key that it gets."""

    path: Path
    key: str
    size_bytes: int


def uploads(sources: Sequence[str], prefix: str) -> list[Upload]:
    """The files meant by the sources: a file gets its name as its key, files of a folder their path inside it.

    Hidden files and folders are left out; links to folders are not followed.

    Raises:
        NotFound: there is no such file. Invalid: a key would be wrong, or two files would get the same one.
        LimitExceeded: too many files.
    """
    found: dict[str, Upload] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise NotFound(f"there is no file {source}", where="falaj objects put", hint="give files or folders")
        pairs = _inside(source) if source.is_dir() else iter([(source, source.name)])
        for path, relative in pairs:
            key = check_key(prefix + relative, where=str(path))
            if key in found:
                raise Invalid(f"{found[key].path} and {path} would both be the object {key!r}", where="SRC")
            found[key] = Upload(path, key, path.stat().st_size)
            if len(found) > FILES_MAX:
                raise LimitExceeded(f"more than {FILES_MAX} files", where=str(source), hint="put part of them")
    if not found:
        raise NotFound("there is no file in what was given", where=", ".join(sources))
    return [found[key] for key in sorted(found)]


def _inside(folder: Path) -> Iterator[tuple[Path, str]]:
    for directory, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(directory, name)
            if not name.startswith(".") and path.is_file():
                yield path, path.relative_to(folder).as_posix()


def check_key(key: str, *, where: str) -> str:
    """``key`` when it can be an object's key.

    Raises:
        Invalid: it is empty, too long, or a part of it is ``.`` or ``..``, which addresses do not keep.
    """
    try:
        length = len(key.encode())
    except UnicodeEncodeError as error:
        raise Invalid(f"{key!a} is not UTF-8", where=where, hint="rename the file") from error
    if not 0 < length <= KEY_BYTES_MAX or {".", ".."} & set(key.split("/")) or "\0" in key:
        raise Invalid(f"{key[:200]!r} cannot be an object's key", where=where, hint="1 to 1024 bytes, without . or ..")
    return key


def content_type(path: Path) -> str:
    """The media type that the file's name says."""
    return _TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def _address(session: Session, bucket: str, key: str = "") -> str:
    """Where a bucket's objects, or one of them, are on the wire."""
    project = session.owner(session.kind("Bucket"), bucket)
    base = segments("projects", project, "buckets", bucket, "objects")
    return f"{base}/{quote(key)}" if key else base


@objects.command()
@click.argument("sources", nargs=-1, required=True, metavar="SRC…")
@BUCKET
@click.option("--prefix", default="", metavar="TEXT", help="Put before every key, as it is: reports/2026/")
@with_session
def put(session: Session, sources: tuple[str, ...], bucket: str, prefix: str) -> None:
    """Put files, or all files of folders, into a bucket.

    A file's key is its name, in a folder its path inside the folder. An object that is acknowledged is on disk.
    """
    files = uploads(sources, prefix)
    base = _address(session, bucket)
    total_bytes = sum(file.size_bytes for file in files)
    stored: list[Any] = []
    with session.out.progress(*_bar()) as progress:
        task = progress.add_task(f"{len(files)} objects", total=total_bytes or 1)
        for file in files:
            stored.append(_put(session, f"{base}/{quote(file.key)}", file))
            progress.advance(task, file.size_bytes)
    if session.out.as_json:
        session.out.document({"bucket": bucket, "items": stored})
    else:
        session.out.text(f"{len(files)} objects, {size(total_bytes)}, in bucket {bucket}")


def _bar() -> list[Any]:
    return [TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()]


def _put(session: Session, address: str, file: Upload) -> Any:
    try:
        with file.path.open("rb") as content:
            size_bytes = os.fstat(content.fileno()).st_size
            return session.client.put(address, content, size_bytes=size_bytes, content_type=content_type(file.path))
    except OSError as error:
        raise Denied(f"{file.path} cannot be read: {error.strerror}", where="falaj objects put") from error
    except FalajError as error:
        error.where = f"{file.path} → {file.key}" + (f": {error.where}" if error.where else "")
        raise


@objects.command()
@click.argument("key")
@BUCKET
@click.option("-o", "--output", metavar="FILE|-", help="Where to write it; - is stdout. Default: the key's last part.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@with_session
def get(session: Session, key: str, bucket: str, output: str | None, force: bool) -> None:
    """Get an object into a file, or to stdout with -o -.

    A file appears when all of it is there, never a part.
    """
    check_key(key, where="KEY")
    if output == "-":
        if session.out.as_json:
            raise Invalid("-o - prints the object, --json a document", where="falaj objects get", hint="leave one out")
        with session.client.download(_address(session, bucket, key)) as (_, pieces):
            for piece in pieces:
                sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    path = Path(output or PurePosixPath(key).name)
    if path.is_dir():
        path /= PurePosixPath(key).name
    if path.exists() and not force:
        raise Conflict(f"{path} exists already", where="falaj objects get", hint="choose another with -o, or --force")
    size_bytes = _download(session, _address(session, bucket, key), path)
    if session.out.as_json:
        session.out.document({"bucket": bucket, "key": key, "path": str(path), "size_bytes": size_bytes})
    else:
        session.out.text(f"{path}, {size(size_bytes)}")


def _download(session: Session, address: str, path: Path) -> int:
    """Write what is at the address to the file, all or nothing; returns its size in bytes."""
    partial: Path | None = None
    try:
        with session.client.download(address) as (total, pieces), session.out.progress(*_bar()) as progress:
            task = progress.add_task(path.name, total=total)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
                partial = Path(file.name)
                for piece in pieces:
                    file.write(piece)
                    progress.advance(task, len(piece))
                size_bytes = file.tell()
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise Denied(f"{path} cannot be written: {error.strerror}", where="-o", hint="choose another place") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return size_bytes


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@objects.command()
@click.argument("prefix", default="")
@BUCKET
@with_session
def ls(session: Session, prefix: str, bucket: str) -> None:
    """List the objects of a bucket whose keys begin with PREFIX."""
    base = _address(session, bucket)
    items: list[dict[str, Any]] = []
    after = ""
    while True:
        page = session.client.get(base, {"prefix": prefix, "after": after})
        items += page["items"]
        after = page["next"]
        if not after:
            break
        if len(items) >= LISTED_MAX:
            raise LimitExceeded(f"more than {LISTED_MAX} objects", where=bucket, hint="list part of them by a prefix")
    if session.out.as_json:
        session.out.document({"items": items})
    elif items:
        rows = [(item["key"], size(item["size_bytes"]), age(item["modified_at"])) for item in items]
        session.out.table(("KEY", "SIZE", "AGE"), rows)
    else:
        session.out.note("there are none")


@objects.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY…")
@BUCKET
@with_session
def rm(session: Session, keys: tuple[str, ...], bucket: str) -> None:
    """Remove objects; what is not there is no error."""
    for key in keys:
        check_key(key, where="KEY")
    base = _address(session, bucket)
    for key in keys:
        session.client.delete(f"{base}/{quote(key)}")
        if not session.out.as_json:
            session.out.text(f"{key} removed")
    if session.out.as_json:
        session.out.document({"removed": list(keys)})


@objects.command()
@with_session
def credentials(session: Session) -> None:
    """Print what an S3 client needs to reach the buckets of a project, for the shell.

    \b
    eval "$(falaj objects credentials -p handbook)"
    aws s3 ls s3://handbook.documents/
    """
    found = session.client.get(segments("projects", session.only_project(), "credentials"))
    if session.out.as_json:
        session.out.document(found)
        return
    variables = {
        "AWS_ENDPOINT_URL": found["endpoint_url"],
        "AWS_ACCESS_KEY_ID": found["access_key"],
        "AWS_SECRET_ACCESS_KEY": found["secret_key"],
        "AWS_REGION": found["region"],
    }
    for name, value in variables.items():
        session.out.raw(f"export {name}={shlex.quote(value)}")
