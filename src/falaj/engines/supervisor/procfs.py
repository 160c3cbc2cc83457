"""What the kernel says about processes (Linux ``/proc``), read without help from any library.

A pid alone names nobody for long: it is used again. A pid together with its start time names one process for ever.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The fields of ``/proc/PID/stat`` that Falaj reads. ``start_ticks`` counts clock ticks since the boot."""

    pid: int
    zombie: bool
    session: int
    start_ticks: int


def stat(pid: int) -> ProcessStat | None:
    """The process with that pid, or None when there is none (a zombie is one until its parent reaps it)."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in brackets and may hold anything, so fields are counted from the last bracket.
    fields = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(pid, fields[0] in {b"Z", b"X"}, int(fields[3]), int(fields[19]))


def alive(pid: int, start_ticks: int) -> bool:
    """Whether the very process that started then under that pid still runs."""
    seen = stat(pid)
    return seen is not None and seen.start_ticks == start_ticks and not seen.zombie


def open_pidfd(pid: int, start_ticks: int) -> int | None:
    """A descriptor of that very process: readable once it has ended, and safe to signal. None when it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # The descriptor holds whoever has the pid now; it is the right one when the start time still agrees.
    if alive(pid, start_ticks):
        return pidfd
    os.close(pidfd)
    return None


def send(pidfd: int, signal_number: int) -> bool:
    """Signal the process behind the descriptor; False when it has ended."""
    try:
        signal.pidfd_send_signal(pidfd, signal_number)
    except ProcessLookupError:
        return False
    return True


def _pids() -> Iterator[int]:
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            yield int(entry.name)


def session_of(leader: int, start_ticks: int) -> list[ProcessStat]:
    """The live processes of the session that ``leader`` opened, also when the leader itself is gone.

    Empty when the leader's pid belongs to somebody else by now: then the session does too.
    """
    members = [
        seen for pid in _pids() if (seen := stat(pid)) is not None and seen.session == leader and not seen.zombie
    ]
    foreign = any(seen.pid == leader and seen.start_ticks != start_ticks for seen in members)
    return [] if foreign else members


def holders(path: Path) -> list[ProcessStat]:
    """The live processes that hold ``path`` open, without the caller and those that may not be looked into."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return []
    found = []
    for pid in _pids():
        seen = stat(pid) if pid != os.getpid() and _holds(pid, wanted) else None
        if seen is not None and not seen.zombie:
            found.append(seen)
    return found


def _holds(pid: int, wanted: os.stat_result) -> bool:
    try:
        with os.scandir(PROC / str(pid) / "fd") as descriptors:
            for descriptor in descriptors:
                try:
                    seen = os.stat(descriptor.path)
                except OSError:
                    continue
                if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return True
    except OSError:
        return False
    return False


def listening(port: int) -> set[int]:
    """The inodes of the TCP sockets that listen on the port, whoever they belong to."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(int(fields[9]))
    return inodes


def sockets(pid: int) -> set[int] | None:
    """The inodes of the sockets that a process holds; None when it may not be looked into."""
    try:
        links = [os.readlink(entry.path) for entry in os.scandir(PROC / str(pid) / "fd")]
    except PermissionError:
        return None
    except FileNotFoundError:
        return set()
    return {int(link[8:-1]) for link in links if link.startswith("socket:[")}


def kill(found: list[ProcessStat]) -> int:
    """End these very processes by SIGKILL and return how many were still there."""
    ended = 0
    for seen in found:
        pidfd = open_pidfd(seen.pid, seen.start_ticks)
        if pidfd is not None:
            ended += send(pidfd, signal.SIGKILL)
            os.close(pidfd)
    return ended
