"""The logs of a site's processes.

Every process writes to its log itself, through a descriptor that only appends; nobody stands between. So a supervisor
that is killed breaks nobody's pipe. Rotation copies and truncates, because the writers keep their descriptor.
"""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

#: How many old logs are kept beside the current one: NAME.log.1 (newest) … NAME.log.3.
OLD_LOGS = 3

_COPY_BYTES = 1 << 20


def open_for_append(path: Path) -> int:
    """A descriptor that appends to the log, made when missing, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write_line(path: Path, text: str) -> None:
    """Append one line with the time (UTC) before it, in a single write."""
    descriptor = open_for_append(path)
    try:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        os.write(descriptor, f"{stamp} {text}\n".encode())
    finally:
        os.close(descriptor)


def rotate(path: Path, bytes_max: int) -> bool:
    """Move the log's content to ``.1`` when it passed ``bytes_max``; True when it did.

    What a writer appends between the last read and the truncation, some microseconds apart, is lost; nothing else is.
    """
    try:
        if path.stat().st_size <= bytes_max:
            return False
    except FileNotFoundError:
        return False
    for number in range(OLD_LOGS - 1, 0, -1):
        older = _old(path, number)
        if older.exists():
            older.replace(_old(path, number + 1))
    copy = path.with_name(path.name + ".copy")
    copy.touch(0o600)
    try:
        with path.open("r+b", buffering=0) as source, copy.open("wb", buffering=0) as target:
            while content := source.read(_COPY_BYTES):
                target.write(content)
            source.truncate(0)
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    copy.replace(_old(path, 1))
    return True


def _old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def tail(path: Path, lines: int, *, bytes_max: int = 1 << 20) -> list[str]:
    """The last lines of a log, oldest first; at most ``bytes_max`` of it is read. Empty when there is no log."""
    try:
        with path.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(0, size - bytes_max))
            content = source.read(bytes_max)
    except FileNotFoundError:
        return []
    return list(deque(content.decode("utf-8", "replace").splitlines(), maxlen=lines))


def last_line(path: Path, *, characters_max: int = 300) -> str:
    """The log's last line that says something, cut to ``characters_max``; empty when there is none."""
    for line in reversed(tail(path, 20, bytes_max=8192)):
        if line.strip():
            return line.strip()[:characters_max]
    return ""


class Follower:
    """Reads a log as it grows, across rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._rest = b""

    def last(self, lines: int) -> list[str]:
        """The last lines so far; :meth:`new` goes on after them."""
        found = tail(self._path, lines) if lines else []
        self._position = self._path.stat().st_size if self._path.exists() else 0
        return found

    def new(self) -> list[str]:
        """The whole lines written since; a shrunken log is read from its start."""
        try:
            with self._path.open("rb") as source:
                if source.seek(0, os.SEEK_END) < self._position:
                    self._position, self._rest = 0, b""
                source.seek(self._position)
                content = source.read(_COPY_BYTES)
        except FileNotFoundError:
            return []
        self._position += len(content)
        *whole, self._rest = (self._rest + content).split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole]
