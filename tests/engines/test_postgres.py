"""Postgres as a supervised process: prepared whole or not at all, back after every kill, nothing acknowledged lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from falaj.engines import postgres
from falaj.engines.supervisor import procfs
from falaj.errors import NotFound, Terminal
from tests.sites import Site, until

PASSWORD = "test-password"
ACCOUNT = "nobody" if os.geteuid() == 0 else None


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A site whose Postgres runs."""
    made = Site()
    assert postgres.prepare(made.folder / "data" / "postgres", password=PASSWORD, account=ACCOUNT)
    made.start()
    made.run(spec(made))
    yield made
    made.remove()


def spec(site: Site) -> postgres.ProcessSpec:
    port = site.processes.allocate_port(postgres.PURPOSE)
    return postgres.process(site.folder / "data" / "postgres", port=port, account=ACCOUNT)


def connect(site: Site, seconds: float = 20, **parameters: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection, once the server takes one."""
    dsn = postgres.dsn(site.processes.port(postgres.PURPOSE), PASSWORD, **parameters)
    deadline = time.monotonic() + seconds
    while True:
        try:
            return psycopg.connect(dsn, autocommit=True)
        except psycopg.OperationalError as error:
            if "password" in str(error) or "permission" in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def value(site: Site, query: str) -> object:
    with connect(site) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
        return row[0]


def test_it_is_durable_and_speaks_utf8(site: Site) -> None:
    wanted = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on",
              "server_encoding": "UTF8", "shared_buffers": "32MB", "unix_socket_directories": ""}  # fmt: skip
    assert {name: value(site, f"SHOW {name}") for name in wanted} == wanted
    assert value(site, "SELECT upper('é')") == "É"


def test_it_listens_on_loopback_only_and_wants_the_password(site: Site) -> None:
    assert value(site, "SHOW listen_addresses") == "127.0.0.1"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.dsn(site.processes.port(postgres.PURPOSE), "wrong"))


def test_the_filer_has_its_own_database_and_no_way_into_the_regions(site: Site) -> None:
    password = postgres.role_password(PASSWORD, postgres.FILER_ROLE)
    port = site.processes.port(postgres.PURPOSE)
    own = postgres.dsn(port, password, role=postgres.FILER_ROLE, database=postgres.FILER_DATABASE)
    with psycopg.connect(own) as connection:
        connection.execute("CREATE TABLE mine (a int)")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(postgres.dsn(port, password, role=postgres.FILER_ROLE))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_as_root_it_runs_as_the_account(site: Site) -> None:
    assert Path(f"/proc/{site.pid('postgres')}").stat().st_uid != 0


def test_what_was_acknowledged_before_kill_9_is_there_after(site: Site) -> None:
    with connect(site) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    acknowledged: list[int] = []

    def write() -> None:
        with connect(site) as connection:
            for number in range(100_000):
                try:
                    connection.execute("INSERT INTO kept VALUES (%s)", (number,))
                except psycopg.OperationalError:
                    return
                acknowledged.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: len(acknowledged) > 20)
    killed = site.kill("postgres")
    writer.join(20)
    site.ready("postgres", not_pid=killed)
    with connect(site) as connection:
        there = {row[0] for row in connection.execute("SELECT n FROM kept")}
    assert set(acknowledged) <= there


def test_a_backend_that_goes_on_computing_does_not_block_the_restart(site: Site) -> None:
    """It would hold the shared memory until its query ends, and Postgres would refuse to start beside it."""
    busy = connect(site)
    pid = busy.info.backend_pid

    def compute() -> None:
        with pytest.raises(psycopg.OperationalError):
            busy.execute("DO $$ BEGIN FOR i IN 1..2000000000 LOOP END LOOP; END $$")

    thread = threading.Thread(target=compute)
    thread.start()
    time.sleep(0.3)
    site.kill("postgres")
    thread.join(20)
    assert value(site, "SELECT 1") == 1
    assert (seen := procfs.stat(pid)) is None or seen.zombie


def test_a_killed_backend_is_recovered_from(site: Site) -> None:
    with connect(site) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert value(site, "SELECT 1") == 1


def test_a_stale_pid_file_that_names_a_living_process_does_not_block_the_start(site: Site) -> None:
    """As after a reboot, when the number belongs to somebody else of the same account."""
    site.processes.delete("postgres")
    until(lambda: site.processes.observe("postgres") is None)
    data = site.folder / "data" / "postgres"
    sleeper = ["/bin/sleep", "600"]
    argv = ["setpriv", "--reuid", "nobody", "--clear-groups", *sleeper] if ACCOUNT else sleeper
    with subprocess.Popen(argv) as other:
        (data / "postmaster.pid").write_text(f"{other.pid}\n{data}\n1\n{site.processes.port(postgres.PURPOSE)}\n\n\n")
        shutil.chown(data / "postmaster.pid", ACCOUNT) if ACCOUNT else None
        site.run(spec(site))
        assert value(site, "SELECT 1") == 1
        assert other.poll() is None
        other.kill()


def test_preparing_again_changes_nothing(site: Site) -> None:
    assert not postgres.prepare(site.folder / "data" / "postgres", password="another", account=ACCOUNT)
    assert value(site, "SELECT 1") == 1


def test_an_interrupted_preparation_is_made_good_by_the_next(tmp_path: Path) -> None:
    data = tmp_path / "data" / "postgres"
    tmp_path.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from falaj.engines import postgres;"
        f"postgres.prepare(Path({str(data)!r}), password='x', account={ACCOUNT!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        until(lambda: list(data.parent.glob(".postgres.*/base")))
        os.killpg(process.pid, signal.SIGKILL)
    assert not data.exists()
    assert list(data.parent.iterdir())
    assert postgres.prepare(data, password=PASSWORD, account=ACCOUNT)
    assert [path.name for path in data.parent.iterdir()] == ["postgres"]
    assert (data / "PG_VERSION").exists()


def test_a_disk_without_room_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount")
    try:
        with pytest.raises(Terminal, match=r"initdb failed.*No space left"):
            postgres.prepare(tmp_path / "postgres", password=PASSWORD, account=ACCOUNT)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_the_address_comes_from_the_sites_files(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="password"):
        postgres.site_dsn(site.folder, tmp_path)
    (tmp_path / postgres.PASSWORD_FILE).write_text(f"{PASSWORD}\n")
    assert postgres.site_dsn(site.folder, tmp_path) == postgres.dsn(site.processes.port(postgres.PURPOSE), PASSWORD)
    with pytest.raises(NotFound, match="no port"):
        postgres.site_dsn(tmp_path, tmp_path)


def test_a_missing_program_is_told() -> None:
    with pytest.raises(NotFound, match="nonsense"):
        postgres.binary("nonsense")
