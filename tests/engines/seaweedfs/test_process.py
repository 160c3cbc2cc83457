"""SeaweedFS beside the site's Postgres under the supervisor: durable, private, back after every kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import urllib3

from falaj.engines import postgres
from falaj.engines.seaweedfs import process as seaweedfs
from falaj.engines.seaweedfs.filer import Filer
from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.errors import LimitExceeded, NotFound, Transient
from tests.postgres import free_port
from tests.sites import Site, until

ACCOUNT = "nobody" if os.geteuid() == 0 else None
ADMIN = seaweedfs.Admin("FLJTESTADMIN", "test-secret-0123456789")


class Engines:
    """A site with both engines, and how to reach its objects."""

    def __init__(self, volumes: Path | None = None) -> None:
        self.site = Site()
        data = self.site.folder / "data"
        postgres.prepare(data / "postgres", password="pw", account=ACCOUNT)
        port = self.site.processes.allocate_port(postgres.PURPOSE)
        ports = seaweedfs.allocate_ports(self.site.processes, free_port())
        self.endpoint = seaweedfs.Endpoint("127.0.0.1", ports, ADMIN, data / "seaweedfs")
        if volumes is not None:
            (data / "seaweedfs").mkdir()
            (data / "seaweedfs" / "volumes").symlink_to(volumes)
        password = postgres.role_password("pw", postgres.FILER_ROLE)
        seaweedfs.prepare(
            self.endpoint, seaweedfs.Database(port, postgres.FILER_DATABASE, postgres.FILER_ROLE, password)
        )
        self.site.start()
        self.site.run(postgres.process(data / "postgres", port=port, account=ACCOUNT), seaweedfs.process(self.endpoint))
        assert Filer(self.endpoint).configure()

    def remove(self) -> None:
        self.site.remove()
        seaweedfs.remove_sockets(self.endpoint.ports)


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    made = Engines()
    yield made
    made.remove()


@pytest.fixture
async def store(engines: Engines) -> AsyncIterator[SeaweedStore]:
    made = SeaweedStore(engines.endpoint)
    await made.create_bucket("p.docs")
    yield made
    await made.close()


def test_the_rule_stands_and_is_not_written_again(engines: Engines) -> None:
    assert not Filer(engines.endpoint).configure()


def test_every_listener_is_on_loopback_and_has_the_port_it_was_given(engines: Engines) -> None:
    process = psutil.Process(engines.site.pid("seaweedfs"))
    listening = {(c.laddr.ip, c.laddr.port) for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    given = {getattr(engines.endpoint.ports, name) for name in seaweedfs.Ports.__slots__}
    assert listening == {("127.0.0.1", port) for port in given}


def test_it_sends_no_telemetry_and_makes_buckets_only_when_asked(engines: Engines) -> None:
    argv = seaweedfs.process(engines.endpoint).argv
    for option in ("-master.telemetry=false", "-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"):
        assert option in argv


def test_its_files_are_private_and_hold_what_argv_must_not(engines: Engines) -> None:
    argv = " ".join(seaweedfs.process(engines.endpoint).argv)
    assert ADMIN.secret_key not in argv
    for path in engines.endpoint.conf_dir.glob("*.*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
    assert engines.endpoint.directory.stat().st_mode & 0o077 == 0


async def test_the_filer_and_the_volumes_want_a_token(engines: Engines, store: SeaweedStore) -> None:
    await store.put("p.docs", "secret", b"s" * 100_000)
    ports = engines.endpoint.ports
    filer = f"http://127.0.0.1:{ports.filer}"
    for method, url in (
        ("GET", f"{filer}/buckets/p.docs/secret"),
        ("GET", f"{filer}/buckets/"),
        ("GET", f"{filer}/etc/iam/identities/"),
        ("PUT", f"{filer}/buckets/p.docs/mine"),
        ("DELETE", f"{filer}/buckets/p.docs/secret"),
    ):
        assert urllib3.request(method, url, retries=False, timeout=5).status == 401, (method, url)
    content = Filer(engines.endpoint)._request("GET", "/buckets/p.docs/", query="?limit=10")
    assert content is not None
    (chunk,) = next(e["chunks"] for e in json.loads(content)["Entries"] if e["FullPath"].endswith("secret"))
    volume = f"http://127.0.0.1:{ports.volume}/{chunk['file_id']}"
    assert urllib3.request("GET", volume, retries=False, timeout=5).status == 401
    assert urllib3.request("DELETE", volume, retries=False, timeout=5).status == 401


async def test_each_put_is_synced_before_it_is_answered(engines: Engines, store: SeaweedStore, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None or os.geteuid() != 0:
        pytest.skip("watching another process's calls needs strace and root")
    trace = tmp_path / "trace"
    pid = str(engines.site.pid("seaweedfs"))
    with subprocess.Popen([strace, "-f", "-e", "trace=fsync,fdatasync", "-o", trace, "-p", pid],
                          stderr=subprocess.PIPE) as watching:  # fmt: skip
        assert watching.stderr is not None
        assert b"attached" in watching.stderr.readline()
        for number in range(10):
            await store.put("p.docs", f"synced-{number}", b"x" * 2000)
        time.sleep(0.3)
        watching.send_signal(signal.SIGINT)
        watching.stderr.read()
    assert trace.read_text().count("sync(") >= 10


async def test_buckets_share_volumes(engines: Engines, store: SeaweedStore) -> None:
    for number in range(20):
        await store.create_bucket(f"p.b{number}")
        await store.put(f"p.b{number}", "key", b"content")
    assert len(list(engines.endpoint.volumes_dir.glob("*.dat"))) <= 4


async def test_what_was_acknowledged_before_kill_9_is_there_after(engines: Engines, store: SeaweedStore) -> None:
    acknowledged: list[str] = []
    killed: list[int] = []
    killer = threading.Timer(0.7, lambda: killed.append(engines.site.kill("seaweedfs")))
    killer.start()
    for number in range(2000):
        try:
            await store.put("p.docs", f"kept-{number:04d}", f"content {number}".encode())
        except Transient:
            break
        acknowledged.append(f"kept-{number:04d}")
    killer.join()
    engines.site.ready("seaweedfs", not_pid=killed[0], seconds=30)
    assert len(acknowledged) > 10
    await _settled(store)
    for key in acknowledged:
        assert await store.get("p.docs", key) == f"content {int(key[-4:])}".encode()


async def test_it_comes_back_when_postgres_was_killed(engines: Engines, store: SeaweedStore) -> None:
    await store.put("p.docs", "before", b"content")
    killed = engines.site.kill("postgres")
    engines.site.ready("postgres", not_pid=killed)
    await _settled(store)
    assert await store.get("p.docs", "before") == b"content"
    await store.put("p.docs", "after", b"content")


async def test_identities_and_the_rule_outlive_a_restart(engines: Engines, store: SeaweedStore) -> None:
    await store.grant("p", "FLJPROJECTKEY", "project-secret-0123456789")
    killed = engines.site.kill("seaweedfs")
    engines.site.ready("seaweedfs", not_pid=killed)
    assert not Filer(engines.endpoint).configure()
    await _settled(store)
    as_project = seaweedfs.Endpoint(
        "127.0.0.1",
        engines.endpoint.ports,
        seaweedfs.Admin("FLJPROJECTKEY", "project-secret-0123456789"),
        engines.endpoint.directory,
    )
    project = SeaweedStore(as_project)
    assert await project.put("p.docs", "mine", b"1")
    await project.close()


async def _settled(store: SeaweedStore) -> None:
    """Wait until volumes have reported to the master again, so that reads find them."""
    deadline = time.monotonic() + 20
    while True:
        try:
            await store.put("p.docs", "settled", b"1")
            await store.get("p.docs", "settled")
        except Transient:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


async def _fill(store: SeaweedStore, kept: list[str]) -> None:
    for number in range(30):
        await store.put("p.docs", f"{number}", os.urandom(8 << 20))
        kept.append(f"{number}")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
async def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount")
    engines = None
    try:
        engines = Engines(volumes=tmp_path)
        store = SeaweedStore(engines.endpoint)
        await store.create_bucket("p.docs")
        kept: list[str] = []
        with pytest.raises(LimitExceeded, match="disk") as caught:
            await _fill(store, kept)
        assert caught.value.hint
        assert kept
        for key in kept:
            assert len(await store.get("p.docs", key)) == 8 << 20
        await store.close()
    finally:
        if engines is not None:
            engines.remove()
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_the_endpoint_comes_from_the_sites_files(engines: Engines, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="S3 keys"):
        seaweedfs.site_endpoint(engines.site.folder, tmp_path)
    (tmp_path / seaweedfs.ADMIN_FILE).write_text(
        json.dumps({"access_key": ADMIN.access_key, "secret_key": ADMIN.secret_key})
    )
    assert seaweedfs.site_endpoint(engines.site.folder, tmp_path) == engines.endpoint


def test_its_sockets_are_removed(engines: Engines) -> None:
    assert seaweedfs.allocate_ports(engines.site.processes, engines.endpoint.ports.s3) == engines.endpoint.ports
    socket = Path(f"/tmp/seaweedfs-filer-grpc-{engines.endpoint.ports.filer_grpc}.sock")
    until(socket.exists)
    seaweedfs.remove_sockets(engines.endpoint.ports)
    assert not socket.exists()
