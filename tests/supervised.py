"""A site with a real supervisor, for tests; stopped, with everything that it started, when the test ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from falaj.engines.supervisor import control
from falaj.engines.supervisor.processes import FileProcesses


@contextmanager
def supervised_site(folder: Path) -> Iterator[FileProcesses]:
    """The processes of a site in ``folder``, kept by a supervisor and its keeper."""
    site = control.SiteFiles(folder)
    control.ensure_running(site)
    keeper = control.lock_holder(site.keeper_lock)
    try:
        yield FileProcesses(folder)
    finally:
        control.request_stop(site)
        stopped = control.wait_until_stopped(site, 60)
        if keeper is not None:
            with suppress(ChildProcessError):  # another keeper than the one started here, or collected already
                os.waitpid(keeper, os.WNOHANG)
        assert stopped, f"the site did not stop; see {site.logs}"


def kill(pid: int | None) -> None:
    """``kill -9`` a process of the site."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def until(condition: Callable[[], Awaitable[object]], what: str, *, seconds: float = 60) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        await asyncio.sleep(0.1)
