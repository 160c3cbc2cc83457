"""The supervisor of a site: ``python -m falaj.engines.supervisor --site-dir DIR``.

It keeps running what ``processes/`` declares (see ``processes.py``), writes what it sees to ``state/``, and can be
killed at any time: the next one adopts what still runs. It stops everything, last started first, and exits once
``state/stop`` exists. One runs for a site: a second one finds the lock taken and leaves. Why Falaj has its own:
docs/decisions/0004-supervisor.md. Only the standard library is imported, so that it stays small.

A full disk silences its log and its records for as long as it is full; it does not end the supervision.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

from falaj.engines.interface import ProcessSpec
from falaj.engines.supervisor import control
from falaj.engines.supervisor.child import Child
from falaj.engines.supervisor.logs import rotate, write_line
from falaj.engines.supervisor.processes import decode_spec, digest, read_record

TICK_SECONDS = 0.25
UNSETTLED_TICK_SECONDS = 0.1
LOOK_AT_LOGS_SECONDS = 5.0
#: Open files allowed to each process, where the machine's hard limit is not lower: SeaweedFS keeps its volumes open.
OPEN_FILES = 65536


class Supervisor:
    """Converges the processes of one site on their declarations, one tick at a time."""

    def __init__(self, site_dir: Path) -> None:
        self._site = control.SiteFiles(site_dir)
        self._children: dict[str, Child] = {}
        self._declared: dict[str, tuple[ProcessSpec, str]] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._look_at_logs_at = 0.0
        self._keeper_pid: int | None = None

    def run(self) -> None:
        """Work until everything was asked to stop and has stopped."""
        self._adopt()
        while True:
            stopping = self._site.stop_file.exists()
            self.tick(stopping=stopping)
            if stopping and not any(child.running for child in self._children.values()):
                self._say("everything has stopped")
                return
            self._sleep()

    def tick(self, *, stopping: bool) -> None:
        """Look at the world once and move one step."""
        now = time.monotonic()
        self._read_declarations()
        for child in self._children.values():
            child.look(now)
        if stopping:
            self._stop_last_started(now)
        else:
            self._converge(now)
            self._keep_keeper()
        with suppress(OSError):
            for child in self._children.values():
                child.save()
        if now >= self._look_at_logs_at:
            self._look_at_logs_at = now + LOOK_AT_LOGS_SECONDS
            self._rotate_logs()

    def _adopt(self) -> None:
        for path in sorted(self._site.state.glob("*.json")):
            record = read_record(path)
            if record is None:
                path.unlink(missing_ok=True)
                continue
            child = Child(record.name, self._site.site_dir)
            if child.adopt(record):
                self._say(f"adopted {record.name} (pid {record.pid})")
            self._children[record.name] = child

    def _read_declarations(self) -> None:
        """Read the declarations that changed; one that cannot be read keeps what it last said."""
        present = set()
        for entry in os.scandir(self._site.processes):
            name = entry.name.removesuffix(".json")
            if entry.name.startswith(".") or name == entry.name:
                continue
            present.add(name)
            try:
                seen = entry.stat()
                mark = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
                if self._seen.get(name) == mark:
                    continue
                content = Path(entry.path).read_bytes()
                self._seen[name] = mark
                self._declared[name] = (decode_spec(content), digest(content))
            except FileNotFoundError:
                present.discard(name)
            except ValueError as error:
                self._say(f"{entry.name} cannot be read and is left as it was: {error}")
        for name in set(self._declared) - present:
            del self._declared[name]
            self._seen.pop(name, None)

    def _converge(self, now: float) -> None:
        for name in self._declared:
            if name not in self._children:
                self._children[name] = Child(name, self._site.site_dir)
        for child in sorted(self._children.values(), key=lambda child: child.order):
            declared = self._declared.get(child.name)
            if declared is None:
                self._withdraw(child, now)
                continue
            spec, name_of_content = declared
            if child.running and child.digest != name_of_content:
                if child.phase != "stopping":
                    self._say(f"{child.name} was declared anew: restarting it")
                child.stop(now)
                continue
            if child.spec is None or child.digest != name_of_content:
                child.declare(spec, name_of_content)
            child.start_when_due(now)

    def _withdraw(self, child: Child, now: float) -> None:
        child.stop(now)
        if not child.running:
            child.close()
            del self._children[child.name]

    def _stop_last_started(self, now: float) -> None:
        """Stop the running processes of the highest order; those below wait until these have ended."""
        running = [child for child in self._children.values() if child.running]
        last = max((child.order for child in running), default=0)
        for child in self._children.values():
            if child.order == last or not child.running:
                child.stop(now)

    def _keep_keeper(self) -> None:
        if self._keeper_pid is not None:
            # The keeper that this supervisor started stays its child: reap it when it ends.
            done, _ = os.waitpid(self._keeper_pid, os.WNOHANG)
            self._keeper_pid = None if done else self._keeper_pid
        elif not control.is_locked(self._site.keeper_lock):
            self._say("the keeper is gone: starting it again")
            with suppress(OSError):
                self._keeper_pid = control.spawn("falaj.engines.supervisor.keeper", self._site)

    def _rotate_logs(self) -> None:
        bytes_max = self._site.log_bytes_max()
        for path in self._site.logs.glob("*.log"):
            with suppress(OSError):
                rotate(path, bytes_max)

    def _sleep(self) -> None:
        """Wait for the next tick, or until a process ends."""
        poll = select.poll()
        for child in self._children.values():
            if child.pidfd is not None:
                poll.register(child.pidfd, select.POLLIN)
        settled = all(child.phase == "ready" for child in self._children.values())
        poll.poll(1000 * (TICK_SECONDS if settled else UNSETTLED_TICK_SECONDS))

    def _say(self, text: str) -> None:
        with suppress(OSError):
            write_line(self._site.logs / "supervisor.log", text)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    """Run the supervisor of a site until it is asked to stop."""
    parser = argparse.ArgumentParser(prog="falaj-supervisor", description="Keep the processes of a Falaj site running.")
    parser.add_argument("--site-dir", type=Path, required=True, help="folder of the site")
    site = control.SiteFiles(parser.parse_args().site_dir.absolute())
    site.make()
    lock = control.take_lock(site.supervisor_lock)
    if lock is None:
        return
    os.chdir(site.site_dir)
    _raise_open_files()
    # A machine that shuts down says SIGTERM: the same as `falaj down`.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: site.stop_file.touch())
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell's background job ignores it, and children would too
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    write_line(site.logs / "supervisor.log", f"supervisor started (pid {os.getpid()})")
    try:
        Supervisor(site.site_dir).run()
    finally:
        os.close(lock)


if __name__ == "__main__":
    main()
