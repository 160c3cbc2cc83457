"""A knowledge base over real objects, a real index and the real embedder."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from falaj.engines.lancedb_index import LanceIndex
from falaj.engines.openai_upstream import OpenAIUpstream
from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.region.admission import Admission
from falaj.region.database import Database
from falaj.region.resource import Key
from falaj.region.snapshot import Snapshot
from falaj.region.store import Store
from falaj.services.knowledge.controller import KnowledgeBaseController
from falaj.services.knowledge.documents import Documents
from falaj.services.knowledge.retrieval import Retriever
from falaj.services.models.gateway import Gateway
from falaj.services.storage.objects import INDEX_BUCKET
from falaj.trust.identity import Principal
from tests.engines import workers
from tests.engines.workers import Worker
from tests.region.declare import bucket, knowledge_base, manifest, project
from tests.seaweed import SeaweedServer
from tests.services.reconciling import set_status

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def e5(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The embedder."""
    with workers.running(tmp_path_factory.mktemp("e5"), "e5", ["--alias", "e5", "--threads", "2"]) as running:
        yield running


@dataclass
class Library:
    """A project with the bucket ``docs`` and the knowledge base ``kb`` over it, and everything that serves them."""

    project: str
    database: Database
    store: Store
    admission: Admission
    admin: Principal
    objects: SeaweedStore
    index: LanceIndex
    snapshot: Snapshot
    gateway: Gateway
    controller: KnowledgeBaseController
    retriever: Retriever

    @property
    def key(self) -> Key:
        """The knowledge base."""
        return Key("KnowledgeBase", self.project, "kb")

    @property
    def index_name(self) -> str:
        """Its index."""
        return f"{self.project}.kb"

    async def put(self, key: str, content: bytes | str) -> None:
        """Store a document."""
        await self.objects.put(f"{self.project}.docs", key, content.encode() if isinstance(content, str) else content)

    async def declare(self, **spec: object) -> None:
        """Declare the knowledge base."""
        await self.admission.apply(self.admin, [knowledge_base("kb", "docs", project=self.project, **spec)])

    async def documents(self) -> dict[str, tuple[str, str]]:
        """State and reason by key."""
        listed = await Documents(self.database).list(self.key)
        return {info.document.removeprefix("docs/"): (info.state, info.reason) for info in listed}


@pytest.fixture
async def library(
    database: Database, store: Store, admission: Admission, admin: Principal, seaweed: SeaweedServer, e5: Worker
) -> AsyncIterator[Library]:
    """A library with nothing in it yet."""
    name = f"library{next(_numbers)}"
    manifests = [
        project(name),
        bucket("docs", name),
        manifest("Model", "e5", catalogue="multilingual-e5-small"),
        manifest("Endpoint", "e5", "system", model="e5"),
    ]
    await admission.apply(admin, manifests)
    replica = {"name": "e5-0", "url": e5.url, "ready": True}
    await set_status(database, Key("Endpoint", "system", "e5"), task="embeddings", model="e5", replicas=[replica])
    objects = seaweed.store()
    await objects.create_bucket(f"{name}.docs")
    keys = seaweed.endpoint.admin
    index = LanceIndex(f"s3://{INDEX_BUCKET}", objects.credentials(keys.access_key, keys.secret_key))
    snapshot = Snapshot(database, store)
    await snapshot.start()
    upstream = OpenAIUpstream(e5.key)
    gateway = Gateway(snapshot, upstream)
    controller = KnowledgeBaseController(objects, index, gateway, Documents(database), snapshot)
    retriever = Retriever(snapshot, gateway, index, database)
    yield Library(name, database, store, admission, admin, objects, index, snapshot, gateway, controller, retriever)
    await snapshot.close()
    await upstream.close()
    await objects.close()
