"""A region whose buckets are real."""

from __future__ import annotations

import itertools

import pytest

from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.region.admission import Admission
from falaj.region.database import Database
from falaj.region.resource import Key
from falaj.trust.identity import Principal
from tests.region.declare import project
from tests.seaweed import SeaweedServer
from tests.services.reconciling import set_status

_numbers = itertools.count(1)


@pytest.fixture
def objects(seaweed: SeaweedServer) -> SeaweedStore:
    """The administrator's view of all objects."""
    return seaweed.store()


@pytest.fixture
async def name(admission: Admission, admin: Principal, database: Database) -> str:
    """A project of the test's own on a site that is ready."""
    await set_status(database, Key("Site", "", "local-a"))
    name = f"storage{next(_numbers)}"
    await admission.apply(admin, [project(name)])
    return name
