"""Starting and stopping a site's supervisor and keeper, and the files by which they are told.

Whether one of the two runs is not guessed from pids: each holds a lock on a file as long as it lives, and the kernel
lets go of it whatever way it ends.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path

from falaj.engines.supervisor.logs import open_for_append

#: A log is rotated at this size unless ``supervisor.json`` says otherwise.
LOG_BYTES_MAX = 8 << 20


class SiteFiles:
    """Where a site keeps what its supervisor and keeper read and write (docs/architecture.md)."""

    def __init__(self, site_dir: Path) -> None:
        self.site_dir = site_dir

    @property
    def processes(self) -> Path:
        """Declarations."""
        return self.site_dir / "processes"

    @property
    def state(self) -> Path:
        """Records, locks, and the request to stop."""
        return self.site_dir / "state"

    @property
    def logs(self) -> Path:
        """Logs of all processes."""
        return self.site_dir / "logs"

    @property
    def stop_file(self) -> Path:
        """Its presence asks the supervisor to stop everything and exit, and the keeper to leave."""
        return self.state / "stop"

    @property
    def supervisor_lock(self) -> Path:
        """Locked while a supervisor lives."""
        return self.state / "supervisor.lock"

    @property
    def keeper_lock(self) -> Path:
        """Locked while a keeper lives."""
        return self.state / "keeper.lock"

    @property
    def settings(self) -> Path:
        """``{"log_bytes_max": …}``, read again whenever logs are looked at."""
        return self.site_dir / "supervisor.json"

    def make(self) -> None:
        """Make the folders; only their owner may look into them."""
        for folder in (self.processes, self.state, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)

    def log_bytes_max(self) -> int:
        """At which size a log is rotated."""
        import json  # noqa: PLC0415 -- the keeper imports this module and stays small without it

        try:
            return int(json.loads(self.settings.read_bytes())["log_bytes_max"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return LOG_BYTES_MAX


def take_lock(path: Path) -> int | None:
    """The descriptor that holds the lock until it is closed, this pid written to the file; None when it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who ask at the same time do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def lock_holder(path: Path) -> int | None:
    """The pid of the process that holds the lock, or None when nobody does."""
    if not is_locked(path):
        return None
    try:
        return int(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None


def spawn(module: str, site: SiteFiles) -> int:
    """Start ``python -m module`` for the site, detached from this process's terminal and session; returns its pid."""
    log = open_for_append(site.logs / f"{module.rpartition('.')[2]}.log")
    null = os.open(os.devnull, os.O_RDWR)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", module, "--site-dir", str(site.site_dir)],
            # The settings of whoever starts this are not those of every process it will ever start.
            {name: value for name, value in os.environ.items() if not name.startswith("FALAJ_")},
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
            setsid=True,
            setsigmask=[],
        )
    finally:
        os.close(log)
        os.close(null)


def is_running(site: SiteFiles) -> bool:
    """Whether the site is supervised, by either of the two."""
    return is_locked(site.supervisor_lock) or is_locked(site.keeper_lock)


def ensure_running(site: SiteFiles, *, timeout_seconds: float = 60.0) -> bool:
    """Start the keeper (which starts the supervisor) unless both run; True when something had to be started.

    A stop that is still under way is waited for; when it takes longer than ``timeout_seconds``, False.
    """
    site.make()
    if site.stop_file.exists():
        wait_until_stopped(site, timeout_seconds)
        site.stop_file.unlink(missing_ok=True)
    if is_locked(site.keeper_lock) and is_locked(site.supervisor_lock):
        return False
    if not is_locked(site.keeper_lock):
        spawn("falaj.engines.supervisor.keeper", site)
    return True


def request_stop(site: SiteFiles) -> None:
    """Ask for everything to be stopped, also what runs without a supervisor since that was killed."""
    site.make()
    site.stop_file.touch()
    if is_locked(site.supervisor_lock):
        return
    pid = spawn("falaj.engines.supervisor", site)
    # It is waited for until it holds its lock, so that `wait_until_stopped` does not take its absence for the end.
    ended = 0
    while not ended and not is_locked(site.supervisor_lock):
        ended, _ = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def wait_until_stopped(site: SiteFiles, timeout_seconds: float) -> bool:
    """Wait until supervisor, keeper and all their processes have ended; False when some still lived at the end.

    A supervisor that dies over it is started again, so this is only called after :func:`request_stop`.
    """
    deadline = time.monotonic() + timeout_seconds
    while is_running(site) or any(is_locked(life_line) for life_line in site.state.glob("*.alive")):
        if time.monotonic() >= deadline:
            return False
        if not is_running(site):
            request_stop(site)
        time.sleep(0.05)
    return True
