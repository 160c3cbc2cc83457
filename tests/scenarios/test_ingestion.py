"""Ingestion under faults: its process killed at any time, a full disk, an engine killed. Nothing is lost or twice."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from falaj.engines.lancedb_index import LanceIndex
from falaj.region.resource import Resource
from falaj.services.knowledge.controller import KnowledgeBaseController
from falaj.services.knowledge.documents import Documents
from falaj.services.knowledge.ingestion import text_key
from falaj.services.storage.objects import INDEX_BUCKET, TEXTS_BUCKET
from tests.engines.workers import Worker
from tests.postgres import PostgresServer
from tests.scenarios import ingesting
from tests.seaweed import SeaweedServer
from tests.services.knowledge.conftest import Library
from tests.services.knowledge.test_controller import settled
from tests.services.reconciling import reconciling, until

DOCUMENTS = 10


async def fill(library: Library) -> None:
    """Documents of two passages each."""
    for number in range(DOCUMENTS):
        text = f"# Farm {number}\n\nThe farm number {number} grows dates.\n\n## Turns\n\nIts turn is on day {number}.\n"
        await library.put(f"farm-{number:02}.md", text)


async def assert_whole(library: Library) -> None:
    """Every document is there, once, as it is."""
    hits = await library.index.search_vector(library.index_name, [0.05] * 384, limit=10 * DOCUMENTS)
    spans = [(hit.document, hit.start) for hit in hits]
    assert len(spans) == len(set(spans)) == 2 * DOCUMENTS == await library.index.observe(library.index_name)
    texts = {item.key async for item in library.objects.list(TEXTS_BUCKET, f"{library.project}/kb/")}
    assert texts == {text_key(library.key, document) for document, _ in spans}
    for hit in hits[::5]:
        text = (await library.objects.get(TEXTS_BUCKET, text_key(library.key, hit.document))).decode()
        assert text[hit.start : hit.end] == hit.text
    assert set((await library.documents()).values()) == {("ready", "")}


@asynccontextmanager
async def process(config: str, log: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A process that ingests, ended with the block."""
    with log.open("ab") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "tests.scenarios.ingesting", config], stdout=output, stderr=output
        )
    try:
        yield running
    finally:
        if running.poll() is None:
            os.kill(running.pid, signal.SIGKILL)
        running.wait(timeout=10)


async def progress(library: Library, at_least: int, seconds: float = 60) -> Resource:
    """Wait until so many documents are ready."""
    return await until(library.store, library.key, lambda r: r.status.documents_ready >= at_least, seconds=seconds)


async def test_killed_again_and_again_it_ends_with_everything_once(
    library: Library,
    database_url: str,
    seaweed: SeaweedServer,
    e5: Worker,
    tmp_path: Path,
) -> None:
    await fill(library)
    await library.declare()
    config, log = ingesting.config(database_url, seaweed, e5.key), tmp_path / "ingesting.log"
    chance = random.Random(7)
    killed_at = []
    for _ in range(3):
        ready = (await library.store.get(library.key)).status.documents_ready
        async with process(config, log) as running:
            await progress(library, min(ready + chance.randint(1, 3), DOCUMENTS))
            await asyncio.sleep(chance.random())
            os.kill(running.pid, signal.SIGKILL)
        killed_at.append((await library.store.get(library.key)).status.documents_ready)
    assert killed_at[0] < DOCUMENTS, "it was killed in the middle"
    async with process(config, log):
        await until(library.store, library.key, settled(DOCUMENTS))
    await assert_whole(library)


async def test_two_processes_do_not_disturb_each_other(
    library: Library,
    database_url: str,
    seaweed: SeaweedServer,
    e5: Worker,
    tmp_path: Path,
) -> None:
    await fill(library)
    await library.declare()
    config, log = ingesting.config(database_url, seaweed, e5.key), tmp_path / "ingesting.log"
    async with process(config, log) as one, process(config, log):
        await progress(library, 2)
        os.kill(one.pid, signal.SIGSTOP)  # longer than its lease lasts; awake again, it must not write
        await asyncio.sleep(2 * ingesting.LEASE_SECONDS)
        os.kill(one.pid, signal.SIGCONT)
        await until(library.store, library.key, settled(DOCUMENTS))
        await asyncio.sleep(1)
    await assert_whole(library)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 400 MB."""
    folder = Path(tempfile.mkdtemp(prefix="falaj-test-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, timeout=10, check=False)
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], timeout=10, check=True)
    folder.rmdir()


@pytest.fixture
async def own_library(
    library: Library,
    postgres: PostgresServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[Library, SeaweedServer]]:
    """The library over an object store of the test's own; on a small disk where the test asks for one."""
    folder = request.getfixturevalue("small_disk") if "small_disk" in request.fixturenames else tmp_path / "seaweedfs"
    name = f"weed_{os.getpid()}_{library.project}"
    postgres.admin(f"CREATE DATABASE {name}")
    server = SeaweedServer(postgres.url(name), folder / "data")
    server.start()
    objects = server.store()
    await objects.create_bucket(f"{library.project}.docs")
    admin = server.endpoint.admin
    library.objects = objects
    library.index = LanceIndex(f"s3://{INDEX_BUCKET}", objects.credentials(admin.access_key, admin.secret_key))
    library.controller = KnowledgeBaseController(
        objects, library.index, library.gateway, Documents(library.database), library.snapshot
    )
    yield library, server
    await objects.close()
    server.remove()
    postgres.admin(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_full_disk_delays_and_loses_nothing(
    small_disk: Path, own_library: tuple[Library, SeaweedServer]
) -> None:
    library, _ = own_library
    await fill(library)
    await library.declare()
    filler = small_disk / "filler"
    async with reconciling(library.database, library.store, library.controller):
        await progress(library, 2)
        with filler.open("wb") as content:
            os.posix_fallocate(content.fileno(), 0, shutil.disk_usage(small_disk).free)

        def stuck(resource: Resource) -> bool:
            condition = resource.status.condition()
            return condition is not None and condition.reason in {"LimitExceeded", "Transient"}

        waiting = await until(library.store, library.key, stuck)
        assert waiting.status.documents_ready < DOCUMENTS
        filler.unlink()
        await library.store.touch(library.key)
        await until(library.store, library.key, settled(DOCUMENTS), seconds=120)
    await assert_whole(library)


async def test_the_object_store_killed_under_it(own_library: tuple[Library, SeaweedServer]) -> None:
    library, server = own_library
    await fill(library)
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        await progress(library, 3)
        server.kill()
        await asyncio.sleep(2)
        await asyncio.to_thread(server.start)
        await until(library.store, library.key, settled(DOCUMENTS), seconds=120)
    await assert_whole(library)
