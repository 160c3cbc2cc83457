"""The whole application of the gateway in the test's own event loop: real Postgres, no object store, no replica."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from falaj.app import KINDS, Site, application
from falaj.engines.openai_upstream import OpenAIUpstream
from falaj.engines.seaweedfs.process import Admin, Endpoint, Ports
from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.engines.supervisor.processes import FileProcesses
from falaj.region.admission import Admission, bootstrap
from falaj.region.database import Database
from falaj.region.snapshot import Snapshot
from falaj.region.store import Store
from falaj.settings import Settings
from falaj.trust.identity import Keys
from tests.protocols.serving import Answer, ask, served

#: Nothing listens there: the port of the system's own multiplexer, which needs a privilege and is never used.
CLOSED_PORT = 1


@dataclass
class Wires:
    """A running gateway and its two keys: the region's administrator's, and that of the project ``claims``."""

    port: int
    admin_key: str
    claims_key: str
    site: Site

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One call; ``body`` is sent as it is when it is bytes, otherwise as JSON. ``key=""`` sends none."""
        content = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        secret = self.admin_key if key is None else key
        given = {"authorization": f"Bearer {secret}" if secret else "", **(headers or {})}
        return await ask(self.port, method, path, content, given)

    async def apply(self, *manifests: dict[str, Any], key: str | None = None) -> Answer:
        """Declare resources."""
        documents = "\n---\n".join(json.dumps({"apiVersion": "falaj/v1", **manifest}) for manifest in manifests)
        return await self.call("POST", "/falaj/v1/apply", documents.encode(), key=key)


def manifest(kind: str, name: str, project: str = "", **spec: Any) -> dict[str, Any]:
    """A manifest."""
    metadata = {"name": name, **({"project": project} if project else {})}
    return {"kind": kind, "metadata": metadata, "spec": spec}


@pytest.fixture
async def wires(database: Database, tmp_path: Path) -> AsyncIterator[Wires]:
    """The application on a fresh database that holds the projects ``claims`` and ``other``."""
    settings = Settings(home=tmp_path, s3_port=CLOSED_PORT, request_bytes_max=65_536, object_bytes_max=65_536)
    store = Store(database, KINDS)
    keys, snapshot = Keys(database, b"k" * 32), Snapshot(database, store)
    ports = Ports(*[CLOSED_PORT] * len(Ports.__slots__))
    objects = SeaweedStore(Endpoint("127.0.0.1", ports, Admin("a", "s"), tmp_path))
    site = Site(
        settings, database, store, snapshot, keys, FileProcesses(settings.site_dir), objects, None, OpenAIUpstream()
    )  # type: ignore[arg-type]
    await bootstrap(Admission(database, store), store, settings.site, settings.jurisdiction)
    await keys.start()
    await snapshot.start()
    _, admin_key = await keys.create("administrator")
    async with served(application(site)) as port:
        started = Wires(port, admin_key, "", site)
        await started.apply(manifest("Project", "claims"), manifest("Project", "other"))
        _, started.claims_key = await keys.create("claims' own", project="claims")
        yield started
    await snapshot.close()
    await keys.close()
