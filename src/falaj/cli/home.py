"""The region's folder on this machine: folders, secrets, the lock between two commands, and what a site runs."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from falaj.engines import postgres
from falaj.engines.interface import Probe, Processes, ProcessSpec
from falaj.engines.seaweedfs import process as seaweedfs
from falaj.engines.supervisor import account as accounts
from falaj.engines.supervisor.control import SiteFiles
from falaj.engines.supervisor.processes import replace_file
from falaj.errors import Conflict, Denied, Invalid, Transient

if TYPE_CHECKING:
    from falaj.settings import Settings

#: The processes of a region that runs, in the order in which they come up.
PROCESSES = ("postgres", "seaweedfs", "control", "gateway")

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_LOCK_SECONDS_MAX = 600.0


def make(settings: Settings) -> None:
    """Make the folders of the region, and its secrets; what exists is left as it is.

    Raises:
        Denied: the folder cannot be written. Invalid: something else is in its place.
    """
    try:
        for folder in (settings.home, settings.home / "sites", settings.site_dir, settings.site_dir / "data"):
            if not folder.is_dir():
                folder.mkdir(parents=True)
                # Postgres's account passes through on its way to its own folder; it cannot list what lies there.
                folder.chmod(0o711)
        settings.models_path.mkdir(parents=True, exist_ok=True)
        SiteFiles(settings.site_dir).make()
        _make_secrets(settings.secrets_dir)
    except (FileExistsError, NotADirectoryError) as error:
        raise Invalid(
            f"{error.filename} is not a folder", where="FALAJ_HOME", hint="choose another with --home or FALAJ_HOME"
        ) from error
    except OSError as error:
        raise Denied(
            f"{settings.home} cannot be written: {error.strerror}",
            where="FALAJ_HOME",
            hint="choose another folder with --home or FALAJ_HOME, or mend this one",
        ) from error


def _make_secrets(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    s3_keys = {"access_key": f"FLJ{secrets.token_hex(8).upper()}", "secret_key": secrets.token_hex(32)}
    fresh = {
        "admin.key": f"flj_{_random(12)}_{_random(52)}",
        "key-hash.key": secrets.token_hex(32),
        postgres.PASSWORD_FILE: secrets.token_hex(32),
        seaweedfs.ADMIN_FILE: json.dumps(s3_keys),
    }
    for name, content in fresh.items():
        path = folder / name
        if not path.exists():
            replace_file(path, content.encode() + b"\n")


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE32) for _ in range(length))


@contextmanager
def locked(settings: Settings, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock that keeps two ``up`` or ``down`` from working at once; ``waiting`` is called when it is taken.

    Raises:
        Transient: it was taken for ten minutes.
    """
    with (settings.home / "up.lock").open("a") as lock:
        said = False
        deadline = time.monotonic() + _LOCK_SECONDS_MAX
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise Transient("another `falaj up` or `falaj down` does not end", where=lock.name) from error
                if not said:
                    waiting()
                said = True
                time.sleep(0.1)
            else:
                break
        yield


def declare_engines(settings: Settings, processes: Processes, working: Callable[[str], None]) -> seaweedfs.Endpoint:
    """Declare Postgres and SeaweedFS, having made what they need on disk.

    Raises:
        Conflict: a port is taken. Terminal: this machine cannot run them; the message says why.
    """
    for purpose, port, flag in (("gateway", settings.port, "port"), ("s3", settings.s3_port, "s3-port")):
        try:
            processes.allocate_port(purpose, port)
        except Conflict as error:
            hint = f"choose another with --{flag} or FALAJ_{flag.replace('-', '_').upper()}, or stop that process"
            raise Conflict(error.message, where=error.where, hint=hint) from error
    account = settings.engine_account if accounts.is_needed() else None
    password = (settings.secrets_dir / postgres.PASSWORD_FILE).read_text(encoding="ascii").strip()
    data_dir = settings.site_dir / "data" / "postgres"
    if not data_dir.exists():
        working("making the database")
    postgres.prepare(data_dir, password=password, account=account)
    port = processes.allocate_port(postgres.PURPOSE)
    processes.create(postgres.process(data_dir, port=port, account=account))
    admin = seaweedfs.Admin(**json.loads((settings.secrets_dir / seaweedfs.ADMIN_FILE).read_bytes()))
    ports = seaweedfs.allocate_ports(processes, settings.s3_port)
    endpoint = seaweedfs.Endpoint(settings.host, ports, admin, settings.site_dir / "data" / "seaweedfs")
    filer_password = postgres.role_password(password, postgres.FILER_ROLE)
    seaweedfs.prepare(endpoint, seaweedfs.Database(port, postgres.FILER_DATABASE, postgres.FILER_ROLE, filer_password))
    processes.create(seaweedfs.process(endpoint))
    return endpoint


def declare_falaj(settings: Settings, processes: Processes) -> None:
    """Declare Falaj's own two processes, with every setting in their environment."""
    for name, order, probe in (
        ("control", 65, None),
        # Alive, not ready: a gateway whose database is away must not be restarted for it.
        ("gateway", 70, Probe(settings.port, "/healthz", host=_reached(settings.host))),
    ):
        processes.create(
            ProcessSpec(
                name=name,
                argv=(sys.executable, "-m", "falaj.app", name),
                environment=environment(settings),
                directory=str(settings.site_dir),  # not where `falaj up` was called: no falaj.toml of that place
                probe=probe,
                ports=(settings.port,) if probe else (),
                stop_timeout_seconds=15.0,
                order=order,
            )
        )


def environment(settings: Settings) -> dict[str, str]:
    """The settings as the environment of a process that must see these and no others."""
    variables = {}
    for name, value in settings:
        if value is not None:
            variables[f"FALAJ_{name.upper()}"] = str(value.absolute() if isinstance(value, Path) else value)
    return variables


def write_supervisor_settings(settings: Settings) -> None:
    """Tell the supervisor what it must know of the settings."""
    content = json.dumps({"log_bytes_max": settings.log_bytes_max}).encode()
    path = SiteFiles(settings.site_dir).settings
    if not path.exists() or path.read_bytes() != content:
        replace_file(path, content)


def _reached(host: str) -> str:
    wildcards: dict[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared, not bound
    return wildcards.get(host, host)


def readiness(settings: Settings, *, timeout_seconds: float = 3.0) -> dict[str, Any] | None:
    """What ``/readyz`` answers, or None when nothing answers there."""
    import urllib3  # noqa: PLC0415 -- `falaj logs` does without

    try:
        answer = urllib3.request("GET", f"{settings.url}/readyz", timeout=timeout_seconds, retries=False)
        content = answer.json()
    except (urllib3.exceptions.HTTPError, ValueError):
        return None
    return dict(content) if isinstance(content, dict) else None


def umask() -> None:
    """What this command makes is its owner's alone unless said otherwise."""
    os.umask(0o077)
