"""What every source of a model file shares: where the bytes go, how far they are, when to stop, whether they fit."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from falaj.errors import LimitExceeded, Transient

#: No model file is larger; a source that sends more is cut off.
MODEL_BYTES_MAX: Final = 1 << 40
#: Left free on the disk, for everyone else.
SPARE_BYTES: Final = 64 << 20


@dataclass(slots=True)
class Progress:
    """How far a pull is. Written by the thread that pulls, read by whoever shows it; ``stop`` asks it to end."""

    source: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One source's attempt to fill ``part``. What is there already is kept and continued.

    Attributes:
        part: the unfinished file; complete when a source's ``fetch`` returns.
        size_bytes: the size that the finished file must have, when it is known.
        progress: where the attempt reports to.
    """

    part: Path
    size_bytes: int | None
    progress: Progress

    @property
    def bytes_there(self) -> int:
        """Size of the unfinished file."""
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def bytes_max(self) -> int:
        """The most that may be written."""
        return self.size_bytes or MODEL_BYTES_MAX

    def check(self) -> None:
        """Raise Transient when the pull was asked to stop."""
        if self.progress.stop.is_set():
            raise stopped()

    def require_room(self, size_bytes: int, *, besides_bytes: int = 0) -> None:
        """Make sure that a file of ``size_bytes`` can be finished, with ``besides_bytes`` of scratch space.

        Raises:
            LimitExceeded: the disk has less free.
        """
        needed = max(0, size_bytes - self.bytes_there) + besides_bytes + SPARE_BYTES
        free = shutil.disk_usage(self.part.parent).free
        if free < needed:
            raise LimitExceeded(
                f"the disk has {free} bytes free; the model needs {needed}",
                where=str(self.part.parent),
                hint="free some space, or set models_dir to a folder on a larger disk",
            )


def stopped() -> Transient:
    """The error of a pull that was asked to stop."""
    return Transient("the pull was stopped; the next one goes on from here")


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the operating system's errors about ``folder`` into Falaj's."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise disk_full(folder) from error
        raise Transient(
            f"{error.strerror or error}",
            where=str(error.filename or folder),
            hint="check the folder and its permissions",
        ) from error


def disk_full(folder: Path) -> LimitExceeded:
    """The error of a disk that filled up under a pull."""
    free = shutil.disk_usage(folder).free
    return LimitExceeded(
        f"the disk became full while the model was written ({free} bytes free); what came so far is kept",
        where=str(folder),
        hint="free some space, or set models_dir to a folder on a larger disk",
    )
