"""The composition root: the only place where objects are wired together.

::

    python -m falaj.app gateway     every wire on one port
    python -m falaj.app control     migrations, then reconciler workers

Both are children of the site's supervisor, both may be killed at any time, and both start while Postgres or the object
store is still away.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import uvicorn
import uvloop

from falaj import __version__
from falaj.engines import registry
from falaj.engines.interface import Inference, ObjectStore, Processes, ReplicaEngine, VectorIndex
from falaj.errors import FalajError, NotFound, Transient
from falaj.protocols import operations
from falaj.protocols.connection import BoundedHttpProtocol
from falaj.protocols.openai import translate as openai_translate
from falaj.protocols.openai.routes import OpenAI
from falaj.protocols.operations import Operations
from falaj.protocols.readiness import Identity, Readiness, reach
from falaj.protocols.rest import translate as rest_translate
from falaj.protocols.rest.routes import Rest, Rooms
from falaj.protocols.server import Server, Wire
from falaj.region.admission import Admission, bootstrap
from falaj.region.controller import ProjectController, SiteController
from falaj.region.database import Database, migrate
from falaj.region.kinds import PROJECT, SITE, EngineStatus
from falaj.region.reconciler import Controller, Reconciler, Result, Work
from falaj.region.resource import KindTable, Resource
from falaj.region.snapshot import Snapshot
from falaj.region.store import Store
from falaj.services.agents.answer import Answerer
from falaj.services.agents.controller import AgentController
from falaj.services.agents.kinds import AGENT
from falaj.services.knowledge.controller import KnowledgeBaseController
from falaj.services.knowledge.documents import Documents
from falaj.services.knowledge.kinds import KNOWLEDGE_BASE
from falaj.services.knowledge.retrieval import Retriever
from falaj.services.models.controller import EndpointController, ModelController
from falaj.services.models.gateway import Gateway
from falaj.services.models.kinds import ENDPOINT, MODEL
from falaj.services.models.pull import Puller
from falaj.services.storage.controller import BucketController
from falaj.services.storage.kinds import BUCKET
from falaj.services.storage.objects import INDEX_BUCKET, Objects
from falaj.settings import Settings, load
from falaj.telemetry import Metrics, ReconcileMetrics, configure_logging, hide, read_metrics
from falaj.trust.identity import Keys

logger = logging.getLogger("falaj.app")

KINDS: Final = KindTable([SITE, PROJECT, BUCKET, MODEL, ENDPOINT, KNOWLEDGE_BASE, AGENT])

#: Streams that run when the gateway is asked to stop may go on for so long.
GRACEFUL_SECONDS: Final = 10
KEEP_ALIVE_SECONDS: Final = 75
CONNECTIONS_MAX: Final = 2048
METRICS_SECONDS: Final = 5.0
#: How long control waits to see what is declared before it begins to work on it.
SNAPSHOT_SECONDS: Final = 10.0
GATEWAY_STATEMENT_SECONDS: Final = 15.0
CONTROL_STATEMENT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """What both processes have: the engines of this site, and the kernel over them."""

    settings: Settings
    database: Database
    store: Store
    snapshot: Snapshot
    keys: Keys
    processes: Processes
    objects: ObjectStore
    index: VectorIndex
    inference: Inference


def build(settings: Settings, role: str) -> Site:
    """The site of this machine, with nothing opened yet.

    Raises:
        NotFound: the site was not made yet, so its secrets are missing.
    """
    site_dir, secrets_dir = settings.site_dir, settings.secrets_dir
    secret(settings, "postgres.password")
    database = Database(
        registry.load("postgres")(site_dir, secrets_dir),
        application=f"falaj-{role}",
        # A person waits for the gateway; nobody waits for control.
        statement_seconds_max=GATEWAY_STATEMENT_SECONDS if role == "gateway" else CONTROL_STATEMENT_SECONDS,
    )
    store = Store(database, KINDS)
    objects: ObjectStore = registry.lazily(
        lambda: registry.load("seaweedfs")(
            registry.load("seaweedfs-endpoint")(site_dir, secrets_dir, host=settings.host)
        )
    )
    return Site(
        settings=settings,
        database=database,
        store=store,
        snapshot=Snapshot(database, store),
        keys=Keys(database, secret(settings, "key-hash.key")),
        processes=registry.load("processes")(site_dir),
        objects=objects,
        index=registry.lazily(lambda: _index(settings, objects)),
        inference=registry.lazily(lambda: registry.load("openai-upstream")(_replica_key(settings))),
    )


def _index(settings: Settings, objects: ObjectStore) -> VectorIndex:
    """Indexes of knowledge bases, as objects of a bucket that only Falaj reaches."""
    administrator = json.loads(secret(settings, "s3-admin.json"))
    credentials = objects.credentials(administrator["access_key"], administrator["secret_key"])
    hide(credentials.secret_key)
    index: VectorIndex = registry.load("lancedb")(f"s3://{INDEX_BUCKET}", credentials)
    return index


def _replica_key_file(settings: Settings) -> Path:
    return settings.secrets_dir / "replica.key"


def _replica_key(settings: Settings) -> str:
    key: str = registry.load("replica-key")(_replica_key_file(settings))
    hide(key)
    return key


def secret(settings: Settings, name: str) -> bytes:
    """A secret's bytes; they are hidden from every log from now on.

    Raises:
        NotFound: ``falaj up`` has not made it yet.
    """
    path = settings.secrets_dir / name
    try:
        content = path.read_bytes().strip()
    except FileNotFoundError as error:
        raise NotFound("a secret is missing", where=str(path), hint="make the region with `falaj up`") from error
    hide(content.decode("ascii", "replace"))
    return content


# --- gateway ----------------------------------------------------------------------------------------------------


def application(site: Site) -> Server:
    """Every wire over the services, as one ASGI application."""
    settings = site.settings
    admission = Admission(site.database, site.store)
    gateway = Gateway(site.snapshot, site.inference)
    retriever = Retriever(site.snapshot, gateway, site.index, site.database)
    answerer = Answerer(site.snapshot, retriever, gateway)
    objects = Objects(site.objects, site.snapshot, site.database, changed=site.store.touch_referrers)
    readiness = Readiness(
        _identity(settings),
        KINDS,
        site.snapshot,
        site.processes,
        {
            "postgres": lambda: site.database.fetch("SELECT 1"),
            "objects": lambda: reach(_host(settings), settings.s3_port),
        },
    )
    metrics = _metrics(site, gateway)
    rooms = Rooms(
        KINDS, site.store, admission, site.snapshot, site.keys, objects, retriever, answerer, readiness.status
    )
    rest = Rest(
        rooms,
        request_bytes_max=settings.request_bytes_max,
        object_bytes_max=settings.object_bytes_max,
        version=__version__,
    )
    openai = OpenAI(gateway, answerer, site.snapshot, metrics, request_bytes_max=settings.request_bytes_max)
    control_metrics = _control_metrics(settings)
    probes = Operations(readiness.checks, lambda: metrics.render() + read_metrics(control_metrics))
    return Server(
        site.keys,
        metrics,
        [
            Wire("openai", "/v1/", openai.handle, openai_translate.failure),
            Wire("rest", "/falaj/", rest.handle, rest_translate.failure),
            Wire("rest", "/openapi.json", rest.handle, rest_translate.failure),
            Wire("operations", "/", probes.handle, rest_translate.failure, operations.PUBLIC),
        ],
    )


async def gateway(settings: Settings) -> None:
    """Serve until asked to stop. Listening does not wait for Postgres: ``/readyz`` says what is missing."""
    site = build(settings, "gateway")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(site.database)
        await _follow(site, stack)
        await site.keys.start()
        stack.push_async_callback(_closed, site.keys)
        await _Server(_listening(settings, application(site))).serve()


def _identity(settings: Settings) -> Identity:
    s3_url = f"{settings.url.rpartition(':')[0]}:{settings.s3_port}"
    return Identity(settings.region, settings.site, settings.jurisdiction, settings.url, s3_url, __version__)


def _host(settings: Settings) -> str:
    """Where this machine reaches what listens on ``settings.host``."""
    return urlsplit(settings.url).hostname or settings.host


def _listening(settings: Settings, server: Server) -> uvicorn.Config:
    return uvicorn.Config(
        server,
        host=settings.host,
        port=settings.port,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )


def _metrics(site: Site, gateway: Gateway) -> Metrics:
    metrics = Metrics()
    snapshot = site.snapshot

    def resources() -> Iterator[tuple[tuple[str, ...], float]]:
        for kind in KINDS:
            found = snapshot.list(kind.name)
            ready = sum(resource.status.ready for resource in found)
            yield (kind.name, "true"), ready
            yield (kind.name, "false"), len(found) - ready

    metrics.gauges("falaj_resources", "Resources by kind and readiness.", ("kind", "ready"), resources)
    metrics.gauges(
        "falaj_snapshot_age_seconds",
        "Since the gateway last knew that it sees what is declared.",
        (),
        lambda: [((), snapshot.age_seconds)],
    )
    metrics.gauges(
        "falaj_replica_requests", "Requests a replica works on or has waiting.", ("url",), gateway.in_progress
    )
    return metrics


class _Server(uvicorn.Server):
    """uvicorn's server, which ends after a signal instead of dying of it: what is open is closed first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals in the loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


# --- control ----------------------------------------------------------------------------------------------------


async def control(settings: Settings) -> None:
    """Bring what is there towards what was declared, until asked to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    site = build(settings, "control")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(site.database)
        if not await _until(stop, _prepared(site)):
            return
        await _follow(site, stack, wait_seconds=SNAPSHOT_SECONDS)  # controllers look things up in it
        metrics = ReconcileMetrics()
        reconciler = Reconciler(
            site.database,
            site.store,
            [_Measured(controller, metrics) for controller in controllers(site)],
            concurrency=settings.reconcile_concurrency,
            holder=f"{settings.site}/{socket.gethostname()}/{os.getpid()}",
        )
        writing = asyncio.create_task(_write_metrics(metrics, _control_metrics(settings)))
        try:
            await reconciler.run(stop)
        finally:
            writing.cancel()


def controllers(site: Site) -> list[Controller]:
    """One controller for each row of the kind table."""
    settings = site.settings
    replicas: dict[str, ReplicaEngine] = {
        name: registry.load(name)(site.processes, _replica_key_file(settings)) for name in ("llamacpp", "e5")
    }
    gateway = Gateway(site.snapshot, site.inference)
    puller = Puller(settings.models_path, hub_url=settings.model_hub_url, files_dir=settings.model_files_dir)
    return [
        SiteController(settings.site, lambda: _engines(site.processes), _needed),
        ProjectController(site.database, site.keys.revoke_project),
        BucketController(site.objects, site.database, site.store),
        ModelController(puller),
        EndpointController(site.store, replicas),
        KnowledgeBaseController(site.objects, site.index, gateway, Documents(site.database), site.snapshot),
        AgentController(site.store),
    ]


async def _prepared(site: Site) -> None:
    """Migrate, let the administrator in, declare what every region has; patient while Postgres is away."""
    settings = site.settings
    while True:
        try:
            await migrate(site.database)
            await site.keys.register(secret(settings, "admin.key").decode("ascii"), "administrator")
            await bootstrap(Admission(site.database, site.store), site.store, settings.site, settings.jurisdiction)
        except Transient as error:
            logger.info("waiting for Postgres", extra={"reason": str(error)})
            await asyncio.sleep(min(error.retry_after_seconds, 0.5))
        else:
            return


def _engines(processes: Processes) -> Sequence[EngineStatus]:
    return [
        EngineStatus(
            name=state.name,
            ready=state.ready,
            pid=state.pid,
            port=state.port,
            restarts=state.restarts,
            message=state.message,
        )
        for state in processes.observe_all().values()
    ]


def _needed(process: str) -> bool:
    """A site is ready without its model replicas: their endpoints report for themselves."""
    return not process.startswith("model-")


class _Measured:
    """A controller whose steps are counted and timed."""

    def __init__(self, controller: Controller, metrics: ReconcileMetrics) -> None:
        self.kind = controller.kind
        self.resync_seconds = controller.resync_seconds
        self._controller = controller
        self._metrics = metrics

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """One step of the controller."""
        with self._metrics.step(self.kind):
            return await self._controller.reconcile(resource, work)


async def _write_metrics(metrics: ReconcileMetrics, path: Path) -> None:
    while True:
        try:
            await asyncio.to_thread(metrics.write, path)
        except OSError as error:
            logger.warning("the metrics cannot be written", extra={"path": str(path), "reason": str(error)})
        await asyncio.sleep(METRICS_SECONDS)


# --- both -------------------------------------------------------------------------------------------------------


def _control_metrics(settings: Settings) -> Path:
    return settings.site_dir / "metrics" / "control.prom"


async def _follow(site: Site, stack: AsyncExitStack, *, wait_seconds: float = 0) -> None:
    """Keep the snapshot fresh; while Postgres is away it waits in the background."""
    await site.snapshot.start(wait_seconds=wait_seconds)
    stack.push_async_callback(site.snapshot.close)
    stack.push_async_callback(site.inference.close)


async def _closed(keys: Keys) -> None:
    """Close the keys; when Postgres is away, the times of their last use are not worth waiting for."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await keys.close()


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work`` unless ``stop`` comes first; whether it was done."""
    doing, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not doing.done():
        doing.cancel()
        return False
    doing.result()
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one role of the site; the exit status is for the supervisor."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    roles = {"gateway": gateway, "control": control}
    if len(given) != 1 or given[0] not in roles:
        sys.stderr.write("usage: python -m falaj.app gateway|control\n")
        return 2
    configure_logging("info")
    try:
        settings = load()
        configure_logging(settings.log_level)
        uvloop.run(roles[given[0]](settings))
    except FalajError as error:
        logger.critical("the process cannot run", extra={"role": given[0], "reason": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
