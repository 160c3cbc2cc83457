"""Fixtures that every room uses: one real Postgres a session, a fresh migrated database a test."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from falaj.region.admission import Admission, bootstrap
from falaj.region.database import Database, migrate
from falaj.region.kinds import PROJECT, SITE
from falaj.region.resource import KindTable
from falaj.region.store import Store
from falaj.services.agents.kinds import AGENT
from falaj.services.knowledge.kinds import KNOWLEDGE_BASE
from falaj.services.models.kinds import ENDPOINT, MODEL
from falaj.services.storage.kinds import BUCKET
from falaj.trust.identity import Principal
from tests.model_file import pull_small_model
from tests.postgres import PostgresServer
from tests.running import SYSTEM, RunningRegion
from tests.seaweed import SeaweedServer

KINDS = KindTable([SITE, PROJECT, BUCKET, MODEL, ENDPOINT, KNOWLEDGE_BASE, AGENT])

_numbers = itertools.count(1)

# A shell starts background jobs with these ignored, and whatever the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real Postgres, with a database ``template_falaj`` that has the schema."""
    server = PostgresServer("max_connections=200")
    server.start()

    async def prepare() -> None:
        async with Database(server.url("template_falaj")) as database:
            await migrate(database)

    server.admin("CREATE DATABASE template_falaj")
    asyncio.run(prepare())
    yield server
    server.remove()


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """The address of a fresh database with the schema, dropped after the test."""
    name = f"test_{next(_numbers)}"
    postgres.admin(f"CREATE DATABASE {name} TEMPLATE template_falaj")
    yield postgres.url(name)
    postgres.admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open pool on a fresh database with the schema."""
    async with Database(database_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def seaweed(postgres: PostgresServer) -> Iterator[SeaweedServer]:
    """A real SeaweedFS. Tests share it, so each takes bucket names of its own."""
    postgres.admin("CREATE DATABASE seaweedfs")
    server = SeaweedServer(postgres.url("seaweedfs"))
    server.start()
    yield server
    server.remove()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A running Postgres of the test's own, to be killed and frozen."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def admin() -> Principal:
    """The region's administrator."""
    return Principal(name="admin", key_id="", project=None)


@pytest.fixture
def store(database: Database) -> Store:
    """A store of every kind."""
    return Store(database, KINDS)


@pytest.fixture
async def admission(database: Database, store: Store) -> Admission:
    """Admission to a region that has its site `local-a` and its project `system`."""
    opened = Admission(database, store)
    await bootstrap(opened, store, "local-a", "AE")
    return opened


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The 0.5B model's file, checked; pulled once into ``.cache/models`` of the checkout, or ``FALAJ_MODELS_DIR``."""
    return pull_small_model()


@pytest.fixture(scope="session")
def region() -> Iterator[RunningRegion]:
    """A running region, started once by ``falaj up``; tests make projects of their own in it and break nothing."""
    running = RunningRegion()
    try:
        yield running.up()
    finally:
        running.remove()


@pytest.fixture(scope="session")
def serving(region: RunningRegion, small_model: Path) -> RunningRegion:
    """The same region with the endpoints ``chat`` (0.5B) and ``e5`` for every project."""
    region.apply(*SYSTEM)
    for endpoint in ("chat", "e5"):
        region.wait_ready(f"/falaj/v1/projects/system/endpoints/{endpoint}")
    return region
