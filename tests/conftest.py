"""Fixtures that every room uses: one real Postgres a session, a fresh migrated database a test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from falaj.region.database import Database, migrate
from tests.postgres import PostgresServer

_numbers = itertools.count(1)


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


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A running Postgres of the test's own, to be killed and frozen."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()
