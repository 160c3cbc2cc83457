"""A process that ingests until it is killed: ``python -m tests.scenarios.ingesting CONFIG``.

It is what `control` does for knowledge bases, with leases short enough for a test to wait for.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from falaj.engines.lancedb_index import LanceIndex
from falaj.engines.openai_upstream import OpenAIUpstream
from falaj.engines.seaweedfs.process import Admin, Endpoint, Ports
from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.region.database import Database
from falaj.region.reconciler import Reconciler
from falaj.region.snapshot import Snapshot
from falaj.region.store import Store
from falaj.services.knowledge.controller import KnowledgeBaseController
from falaj.services.knowledge.documents import Documents
from falaj.services.models.gateway import Gateway
from falaj.services.storage.objects import INDEX_BUCKET
from tests.conftest import KINDS
from tests.seaweed import SeaweedServer

LEASE_SECONDS = 3.0


def config(database_url: str, seaweed: SeaweedServer, e5_key: str) -> str:
    """What the process must know, as its argument."""
    endpoint = seaweed.endpoint
    return json.dumps(
        {
            "database": database_url,
            "ports": asdict(endpoint.ports),
            "admin": asdict(endpoint.admin),
            "folder": str(endpoint.directory),
            "e5_key": e5_key,
        }
    )


async def main(given: dict[str, Any]) -> None:
    """Reconcile until killed."""
    endpoint = Endpoint("127.0.0.1", Ports(**given["ports"]), Admin(**given["admin"]), Path(given["folder"]))
    objects = SeaweedStore(endpoint)
    credentials = objects.credentials(endpoint.admin.access_key, endpoint.admin.secret_key)
    async with Database(given["database"]) as database:
        store = Store(database, KINDS)
        snapshot = Snapshot(database, store)
        await snapshot.start()
        gateway = Gateway(snapshot, OpenAIUpstream(given["e5_key"]))
        index = LanceIndex(f"s3://{INDEX_BUCKET}", credentials)
        controller = KnowledgeBaseController(objects, index, gateway, Documents(database), snapshot)
        reconciler = Reconciler(
            database, store, [controller], concurrency=4, holder="ingesting", lease_seconds=LEASE_SECONDS
        )
        await reconciler.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
