"""``falaj up``, ``falaj down`` and ``falaj logs``: the region of this machine.

``up`` declares processes in files and waits; the supervisor starts and keeps them (docs/architecture.md). It can be
killed at any line and called again. Only one ``up`` or ``down`` works at a time on a folder.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from falaj.cli import home
from falaj.cli.options import DURATION
from falaj.cli.output import Output
from falaj.cli.session import Session, with_session
from falaj.engines.interface import ProcessState
from falaj.engines.seaweedfs import process as seaweedfs
from falaj.engines.seaweedfs.filer import Filer
from falaj.engines.supervisor import control
from falaj.engines.supervisor.control import SiteFiles
from falaj.engines.supervisor.logs import Follower, tail
from falaj.engines.supervisor.processes import FileProcesses
from falaj.errors import Invalid, NotFound, Transient, nearest

if TYPE_CHECKING:
    from falaj.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

#: Stopping is bounded by the processes' own time limits; this is beyond their sum.
DOWN_SECONDS_MAX = 120.0
LOG_LINES = 100
_LOOK_SECONDS = 0.1
_LAST_LINES = 5


def _setting_options(function: F) -> F:
    options = (
        click.option("--host", help="Address to listen on; loopback unless you say otherwise."),
        click.option("--port", type=int, help="Port of every wire but S3 [7440]."),
        click.option("--s3-port", type=int, help="Port of the S3 wire [7441]."),
        click.option("--region", help="Name of the region [local]."),
        click.option("--site", help="Name of the site that this machine is [local-a]."),
        click.option("--jurisdiction", help="ISO 3166-1 country code of the site [AE]."),
        click.option("--engine-account", help="Account that Postgres runs as when you are root [nobody]."),
        click.option("--timeout", type=DURATION, help="How long to wait until the region is ready [120s]."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@_setting_options
@with_session
def up(session: Session, /, timeout: float | None, **flags: Any) -> None:
    """Start the region of this machine, and make it first if there is none.

    Running it again changes nothing, or what the settings changed. The region keeps running after this command and
    restarts what fails; `falaj down` stops it. Exit code 7 when it was not ready in time.
    """
    from falaj.settings import load  # noqa: PLC0415 -- a fifth of a second that `--help` must not cost

    settings = load(home=session.settings.home, up_timeout_seconds=timeout, **flags)
    home.umask()
    home.make(settings)
    out = session.out
    if settings.host not in {"127.0.0.1", "::1", "localhost"}:
        out.note(f"the region listens on {settings.host}: whoever reaches it needs a key, and nothing is encrypted")
    started_at = time.monotonic()
    with home.locked(settings, lambda: out.note("another `falaj up` or `falaj down` is at work: waiting for it")):
        before = _pids(settings)
        with _Progress(out) as progress:
            _start(settings, progress)
        unchanged = None not in before.values() and before == _pids(settings)
    _report(out, settings, unchanged=unchanged, seconds=time.monotonic() - started_at)


def _start(settings: Settings, progress: _Progress) -> None:
    processes = FileProcesses(settings.site_dir)
    site = SiteFiles(settings.site_dir)
    deadline = time.monotonic() + settings.up_timeout_seconds
    home.write_supervisor_settings(settings)
    endpoint = home.declare_engines(settings, processes, progress.say)
    if site.stop_file.exists():
        progress.say("waiting for an earlier `falaj down`")
    control.ensure_running(site)
    _wait_for(settings, ("postgres", "seaweedfs"), deadline, progress)
    # Nothing is stored before it is certain that what is stored is on disk.
    Filer(endpoint).configure()
    home.declare_falaj(settings, processes)
    _wait_for(settings, home.PROCESSES, deadline, progress)
    while not (seen := home.readiness(settings) or {}).get("ready"):
        missing = [check for check in seen.get("checks", ()) if not check["ready"]]
        awaited = ", ".join(f"{check['name']}: {check['message'] or 'not ready'}" for check in missing)
        progress.say(f"waiting for the region ({awaited or 'no answer yet'})")
        if time.monotonic() >= deadline:
            raise _late(settings, home.PROCESSES, awaited)
        time.sleep(_LOOK_SECONDS)


def _wait_for(settings: Settings, names: Sequence[str], deadline: float, progress: _Progress) -> None:
    processes = FileProcesses(settings.site_dir)
    site = SiteFiles(settings.site_dir)
    while True:
        states = [processes.observe(name) for name in names]
        awaited = [state for state in states if state is not None and not state.ready]
        if not awaited:
            return
        progress.say("waiting for " + ", ".join(_described(state) for state in awaited))
        if time.monotonic() >= deadline:
            raise _late(settings, names, "")
        control.ensure_running(site)
        time.sleep(_LOOK_SECONDS)


def _described(state: ProcessState) -> str:
    return f"{state.name} ({state.message[:120]})" if state.phase == "backoff" else state.name


def _late(settings: Settings, names: Sequence[str], awaited: str) -> Transient:
    processes = FileProcesses(settings.site_dir)
    states = [state for name in names if (state := processes.observe(name)) is not None]
    culprit = next((state for state in states if not state.ready), None)
    name = "gateway" if culprit is None else culprit.name
    log = SiteFiles(settings.site_dir).logs / f"{name}.log"
    what = awaited if culprit is None else f"{name} is {culprit.phase}: {culprit.message or 'no reason known'}"
    said = "".join(f"\n    {line}" for line in tail(log, _LAST_LINES))
    return Transient(
        f"the region was not ready in {settings.up_timeout_seconds:g} s; {what}{said}",
        where=str(log),
        hint=f"see `falaj logs {name}`; it goes on starting: `falaj status` tells, `falaj down` stops it",
    )


def _pids(settings: Settings) -> dict[str, int | None]:
    states = FileProcesses(settings.site_dir).observe_all()
    return {name: states[name].pid if name in states and states[name].ready else None for name in home.PROCESSES}


def _report(out: Output, settings: Settings, *, unchanged: bool, seconds: float) -> None:
    if out.as_json:
        out.document(
            {
                "region": settings.region,
                "site": settings.site,
                "url": settings.url,
                "s3_url": f"{settings.url.rpartition(':')[0]}:{settings.s3_port}",
                "home": str(settings.home),
                "ready": True,
                "already_running": unchanged,
                "seconds": round(seconds, 2),
            }
        )
        return
    state = "was already running" if unchanged else f"is ready after {seconds:.1f} s"
    out.text(f"region {settings.region} {state} at {settings.url}", style="bold")
    out.note(f"its administrator's key is in {settings.secrets_dir / 'admin.key'}")
    out.note('use it: falaj status · falaj apply -f FILE · falaj ask AGENT "…"; stop it: falaj down')


@click.command()
@click.option("--delete-data", is_flag=True, help="Delete the site's data and secrets as well; model files stay.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before deleting.")
@click.option("--site", help="Name of the site that this machine is [local-a].")
@with_session
def down(session: Session, delete_data: bool, yes: bool, site: str | None) -> None:
    """Stop the region of this machine; its data stay.

    With --delete-data everything that the site stored is gone for good: declarations, objects, indexes, keys.
    """
    from falaj.settings import load  # noqa: PLC0415 -- as in `up`

    settings = load(home=session.settings.home, site=site)
    out = session.out
    files = SiteFiles(settings.site_dir)
    exists = files.processes.is_dir()
    if exists and delete_data and not yes:
        _confirm(settings)
    was_running = False
    if exists:
        home.umask()
        with home.locked(settings, lambda: out.note("another `falaj up` or `falaj down` is at work: waiting for it")):
            was_running = _stop(settings, out)
            if delete_data:
                _delete_data(settings)
    if out.as_json:
        out.document({"stopped": was_running, "deleted": exists and delete_data})
    else:
        said = f"region {settings.region} has stopped" if was_running else f"nothing runs in {settings.home}"
        out.text(said + ("; its data are deleted" if exists and delete_data else ""))


def _confirm(settings: Settings) -> None:
    if not sys.stdin.isatty():
        raise Invalid("deleting data wants your word", where="falaj down --delete-data", hint="add --yes")
    click.confirm(f"Delete everything stored in {settings.site_dir}?", abort=True, err=True)


def _stop(settings: Settings, out: Output) -> bool:
    site = SiteFiles(settings.site_dir)
    processes = FileProcesses(settings.site_dir)
    running = [state.name for state in processes.observe_all().values() if state.pid is not None]
    if not running and not control.is_running(site):
        return False
    with _Progress(out) as progress:
        deadline = time.monotonic() + DOWN_SECONDS_MAX
        control.request_stop(site)
        while not control.wait_until_stopped(site, _LOOK_SECONDS):
            left = [state.name for state in processes.observe_all().values() if state.pid is not None]
            progress.say(f"stopping {', '.join(left) or 'the supervisor'}")
            if time.monotonic() >= deadline:
                raise Transient(
                    f"{', '.join(left)} did not stop in {DOWN_SECONDS_MAX:g} s",
                    where=str(site.state),
                    hint="run `falaj down` again",
                )
    with suppress(NotFound):  # when it was never declared
        seaweedfs.remove_sockets(seaweedfs.site_endpoint(settings.site_dir, settings.secrets_dir).ports)
    return True


def _delete_data(settings: Settings) -> None:
    """Remove the site, and the secrets when no other site of this folder needs them."""
    shutil.rmtree(settings.site_dir)
    if not any((settings.home / "sites").iterdir()):
        shutil.rmtree(settings.secrets_dir, ignore_errors=True)


@click.command()
@click.argument("process", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until interrupted.")
@click.option(
    "-n", "--lines", type=click.IntRange(0, 100_000), default=LOG_LINES, show_default=True, help="Last lines."
)
@click.option("--site", help="Name of the site that this machine is [local-a].")
@with_session
def logs(session: Session, process: str | None, follow: bool, lines: int, site: str | None) -> None:
    """Show the logs of this machine's processes, or of one.

    With --json a line of JSON for each line of a log.
    """
    from falaj.settings import load  # noqa: PLC0415 -- as in `up`

    settings = load(home=session.settings.home, site=site)
    folder = SiteFiles(settings.site_dir).logs
    paths = {path.stem: path for path in sorted(folder.glob("*.log"))} if folder.is_dir() else {}
    if not paths:
        raise NotFound("there are no logs", where=str(folder), hint="start the region with `falaj up`")
    if process is not None and process not in paths:
        raise NotFound(f"there is no process {process!r}", where=str(folder), hint=nearest(process, paths))
    followers = {name: Follower(path) for name, path in paths.items() if process in (None, name)}
    width = max(map(len, followers)) if process is None else 0
    for name, follower in followers.items():
        _print_lines(session.out, name, width, follower.last(lines))
    while follow:
        for name, follower in followers.items():
            _print_lines(session.out, name, width, follower.new())
        time.sleep(_LOOK_SECONDS)


def _print_lines(out: Output, name: str, width: int, lines: Sequence[str]) -> None:
    for line in lines:
        if out.as_json:
            out.line({"process": name, "line": line})
        else:
            out.raw(f"{name:<{width}}  {out.shown(line)}" if width else out.shown(line))


class _Progress:
    """What is awaited: a spinner on a terminal, a line for each change elsewhere, nothing with ``--json``."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._said = ""
        self._display = out.progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._task = self._display.add_task("starting", total=None)

    def __enter__(self) -> _Progress:
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.stop()

    def say(self, text: str) -> None:
        """Show what is awaited now."""
        if text == self._said:
            return
        self._said = text
        if not self._display.disable:
            self._display.update(self._task, description=text)
        elif not self._out.as_json:
            self._out.note(text)
