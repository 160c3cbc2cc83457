"""One process under the supervisor: started or adopted, watched, probed, stopped.

Whom a child may signal is settled by the kernel, not by bookkeeping:

- its own process: by a ``pidfd``, opened only when pid and start time agree with the record;
- what that left behind: the rest of the session it opened, and whoever still holds the *life line*, a locked file
  (``state/NAME.alive``) whose descriptor only the process and its descendants inherit. While anybody holds it, the lock
  stands, and no second copy is started beside the first; not even after supervisor and process died together.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

from falaj.engines.interface import ProcessSpec
from falaj.engines.supervisor import procfs
from falaj.engines.supervisor.account import command
from falaj.engines.supervisor.logs import last_line, open_for_append
from falaj.engines.supervisor.probe import Prober
from falaj.engines.supervisor.processes import Phase, StateRecord, write_record
from falaj.errors import FalajError

BACKOFF_SECONDS_MIN = 0.2
BACKOFF_SECONDS_MAX = 10.0
#: A process that was healthy this long starts again without delay when it ends.
HEALTHY_SECONDS = 30.0
#: A process that was ready and then answered no probe for this long hangs: it is stopped and started again.
UNRESPONSIVE_SECONDS = 60.0
#: A ready process stays ready until this many probes in a row failed.
PROBE_FAILURES_MAX = 3

_SIGNALS = {"TERM": signal.SIGTERM, "INT": signal.SIGINT, "QUIT": signal.SIGQUIT}


class Child:
    """A process and what is known about it. ``spec`` is None for an adopted one whose declaration is gone."""

    def __init__(self, name: str, site_dir: Path) -> None:
        self.name = name
        self.spec: ProcessSpec | None = None
        self.digest = ""
        self.phase: Phase = "stopped"
        self.pidfd: int | None = None
        self.order = 50
        self._site_dir = site_dir
        self._log = site_dir / "logs" / f"{name}.log"
        self._record_path = site_dir / "state" / f"{name}.json"
        self._life_line = site_dir / "state" / f"{name}.alive"
        self._popen: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._start_ticks: int | None = None
        self._started_at: float | None = None
        self._healthy_since: float | None = None
        self._answered_at = 0.0
        self._restarts = 0
        self._message = ""
        self._backoff_seconds = BACKOFF_SECONDS_MIN
        self.start_not_before = 0.0
        self._kill_at = float("inf")
        self._stop_signal = "TERM"
        self._stop_timeout_seconds = 20.0
        self._prober = Prober()
        self._written: StateRecord | None = None

    @property
    def running(self) -> bool:
        """Whether the process runs, as far as was looked."""
        return self.pidfd is not None

    # --- starting and adopting ---

    def adopt(self, record: StateRecord) -> bool:
        """Take over the process that an earlier supervisor recorded; False when that very process is gone."""
        self.digest, self._restarts, self.order = record.digest, record.restarts, record.order
        self._stop_signal, self._stop_timeout_seconds = record.stop_signal, record.stop_timeout_seconds
        if record.phase == "stopped":
            self._restarts = 0
        if record.pid is None or record.start_ticks is None:
            return False
        self.pidfd = procfs.open_pidfd(record.pid, record.start_ticks)
        if self.pidfd is None:
            # Its session is not searched: the machine may have started anew and given the number to others.
            self._end_holders()
            return False
        self._pid, self._start_ticks, self._started_at = record.pid, record.start_ticks, record.started_at
        # Whether it is ready is probed again; until then what was last known stands.
        self.phase, self._message = record.phase, record.message
        if self.phase == "stopping":
            self._kill_at = time.monotonic() + self._stop_timeout_seconds
        return True

    def declare(self, spec: ProcessSpec, digest: str) -> None:
        """Set what is to run. The caller stops a process that runs from another declaration first."""
        self.spec, self.digest, self.order = spec, digest, spec.order
        self._stop_signal, self._stop_timeout_seconds = spec.stop_signal, spec.stop_timeout_seconds
        self._prober.watch(spec.probe)

    def start_when_due(self, now: float) -> None:
        """Start the process unless it runs already or its backoff is not over."""
        if self.running or self.spec is None or now < self.start_not_before:
            return
        try:
            line = os.open(self._life_line, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(line, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._spawn(self.spec, line)
            finally:
                os.close(line)
        except BlockingIOError:
            self._end_holders()
            self._back_off(now, "waiting until what is left of the previous run has ended")
        except (OSError, FalajError) as error:
            self._back_off(now, f"cannot start {self.spec.argv[0]}: {error}")

    def _spawn(self, spec: ProcessSpec, life_line: int) -> None:
        directory = Path(spec.directory or self._site_dir)
        log = open_for_append(self._log)
        try:
            named = [Path(word) for word in spec.argv if word.startswith("/")]
            argv = command(spec.account, spec.argv, [*named, directory])
            self._popen = subprocess.Popen(  # the supervisor never waits for it: its pidfd tells when it ended
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env={**os.environ, **spec.environment},
                pass_fds=(life_line,),
                start_new_session=True,
            )
        finally:
            os.close(log)
        self._pid = self._popen.pid
        seen = procfs.stat(self._pid)  # it is our child and not reaped yet, so the pid is still its own
        self._start_ticks = None if seen is None else seen.start_ticks
        self.pidfd = os.pidfd_open(self._pid)
        self._started_at = time.time()
        self._healthy_since = None
        self.phase, self._message = "starting", ""
        self._prober.watch(spec.probe)
        self.save()

    # --- watching ---

    def look(self, now: float) -> None:
        """Take the news: has it ended, is it ready, must it be killed."""
        if self.pidfd is None:
            return
        if self._ended(self.pidfd):
            self._forget(now)
        elif self.phase == "stopping":
            if now >= self._kill_at:
                procfs.send(self.pidfd, signal.SIGKILL)
        else:
            self._take_probe(now)

    def _take_probe(self, now: float) -> None:
        if self.spec is None:
            return  # adopted a moment ago; its declaration has not been read yet
        if self.spec.probe is None:
            self.phase, self._message = "ready", ""
        else:
            self._prober.tick(now, eager=self.phase != "ready")
            if self._prober.successes > 0:
                self.phase, self._message = "ready", ""
            elif self._prober.failures >= (PROBE_FAILURES_MAX if self.phase == "ready" else 1):
                self.phase = "starting" if self._healthy_since is None else "running"
                self._message = self._prober.message
        if self.phase == "ready":
            self._healthy_since = self._healthy_since or now
            self._answered_at = now
        elif self.phase == "running" and now - self._answered_at >= UNRESPONSIVE_SECONDS:
            self._restarts += 1
            self.stop(now)

    def _ended(self, pidfd: int) -> bool:
        if self._popen is not None:
            return self._popen.poll() is not None
        return self._pid is None or self._start_ticks is None or not procfs.alive(self._pid, self._start_ticks)

    def _forget(self, now: float) -> None:
        """The process has ended: end what it left behind, and say how it goes on."""
        status = None if self._popen is None else self._popen.returncode
        assert self.pidfd is not None
        os.close(self.pidfd)
        self.pidfd, self._popen = None, None
        if self._pid is not None and self._start_ticks is not None:
            procfs.kill(procfs.session_of(self._pid, self._start_ticks))
        self._end_holders()
        if self.phase == "stopping":
            self.phase, self._message, self.start_not_before = "stopped", "", 0.0
            self._backoff_seconds = BACKOFF_SECONDS_MIN
        else:
            if self._healthy_since is not None and now - self._healthy_since >= HEALTHY_SECONDS:
                self._backoff_seconds = BACKOFF_SECONDS_MIN
            self._restarts += 1
            said = last_line(self._log)
            self._back_off(now, f"{_how_it_ended(status)}{': ' + said if said else ''}")
        self._pid, self._start_ticks, self._started_at, self._healthy_since = None, None, None, None
        self.save()

    def _back_off(self, now: float, message: str) -> None:
        self.phase, self._message = "backoff", message
        self.start_not_before = now + self._backoff_seconds
        self._backoff_seconds = min(2 * self._backoff_seconds, BACKOFF_SECONDS_MAX)

    def _end_holders(self) -> None:
        """End whoever still holds the life line."""
        descriptor = os.open(self._life_line, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            procfs.kill(procfs.holders(self._life_line))
        finally:
            os.close(descriptor)

    # --- stopping ---

    def stop(self, now: float) -> None:
        """Ask the process to end; ``look`` kills it once its time is over."""
        if self.pidfd is None:
            self.phase, self._message, self.start_not_before = "stopped", "", 0.0
        elif self.phase != "stopping":
            self.phase, self._message = "stopping", ""
            self._kill_at = now + self._stop_timeout_seconds
            procfs.send(self.pidfd, _SIGNALS[self._stop_signal])
            # A frozen process would not see the signal before its time is over.
            procfs.send(self.pidfd, signal.SIGCONT)

    def close(self) -> None:
        """Forget a stopped process: its record and its life line go."""
        self._record_path.unlink(missing_ok=True)
        self._life_line.unlink(missing_ok=True)

    def save(self) -> None:
        """Write the record when it changed."""
        port = None
        if self.spec is not None:
            ports = self.spec.ports
            port = self.spec.probe.port if self.spec.probe else ports[0] if ports else None
        record = StateRecord(
            name=self.name,
            phase=self.phase,
            pid=self._pid if self.running else None,
            start_ticks=self._start_ticks if self.running else None,
            port=port,
            restarts=self._restarts,
            message=self._message,
            started_at=self._started_at,
            digest=self.digest,
            stop_signal=self._stop_signal,
            stop_timeout_seconds=self._stop_timeout_seconds,
            order=self.order,
        )
        if record != self._written:
            write_record(self._record_path, record)
            self._written = record


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "it ended"
    if status < 0:
        return f"killed by signal {signal.Signals(-status).name}" if -status in set(signal.Signals) else "killed"
    return f"ended with exit status {status}"
