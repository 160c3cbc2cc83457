"""Controllers of the models room: a Model is pulled and checked, an Endpoint has its replicas running."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Final

from falaj.engines.interface import ReplicaEngine, ReplicaSpec
from falaj.errors import Conflict, FalajError, LimitExceeded, Terminal, Transient
from falaj.region.placement import place
from falaj.region.reconciler import Result, Work
from falaj.region.resource import Key, Resource
from falaj.region.store import Store
from falaj.services.models.catalogue import Weights, effective
from falaj.services.models.kinds import EndpointSpec, EndpointStatus, ModelStatus, Replica, WeightsFormat
from falaj.services.models.pull import Puller
from falaj.services.models.transfer import Progress

#: How often the progress of a pull is written.
PROGRESS_SECONDS: Final = 0.5
#: A step of a pull ends when so little is left of the kernel's time for it; the next one goes on watching.
STEP_MARGIN_SECONDS: Final = 3.0
RETRY_SECONDS: Final = 30.0
#: A wrong hash will not heal by itself, and every attempt may be a download of gigabytes.
WRONG_HASH_RETRY_SECONDS: Final = 24 * 3600.0
STARTING_SECONDS: Final = 0.5
ORPHANS_SECONDS: Final = 60.0
ENGINE_OF_FORMAT: Final[Mapping[WeightsFormat, str]] = {"gguf": "llamacpp", "bundled": "e5"}


class _Pull:
    """One pull in a thread of its own. A daemon: a process that ends does not wait for it, and the next one goes on."""

    def __init__(self, puller: Puller, weights: Weights) -> None:
        self.weights = weights
        self.progress = Progress(bytes_total=weights.size_bytes or 0)
        self.error: FalajError | None = None
        self._puller = puller
        self._thread = Thread(target=self._run, name=f"pull {weights.filename}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._puller.pull(self.weights, self.progress)
        except FalajError as error:
            self.error = error
        except Exception as error:  # the thread's end must be told, whatever it was
            self.error = FalajError(f"internal error while pulling: {type(error).__name__}: {error}")
            raise

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    async def stop(self) -> None:
        """End the pull at its next chunk."""
        self.progress.stop.set()
        await asyncio.to_thread(self._thread.join)


class ModelController:
    """Pulls a model's file and keeps vouching for it.

    Deleting a Model stops its pull and removes what is unfinished. The checked file stays in the models folder: it is a
    cache that other regions on the machine may share.
    """

    kind = "Model"
    resync_seconds = 60.0

    def __init__(self, puller: Puller) -> None:
        self._puller = puller
        self._pulls: dict[Key, _Pull] = {}

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """Look whether the file is there and checked; else pull, or watch the pull that runs."""
        status: ModelStatus = resource.status
        weights = effective(resource.spec)
        pull = self._pulls.get(resource.key)
        if pull is not None and (resource.deleting or pull.weights != weights):
            await pull.stop()
            del self._pulls[resource.key]
        if resource.deleting:
            return await self._forget(weights)
        if weights.format == "bundled":
            status.source, status.path, status.bytes_done, status.bytes_total = "bundled", "", 0, 0
            status.set_condition("True", "Bundled", "the weights are part of the engine")
            return Result()
        if self._puller.verified(weights):
            self._pulls.pop(resource.key, None)
            return self._ready(weights, status)
        if resource.key not in self._pulls:
            self._pulls[resource.key] = _Pull(self._puller, weights)
            status.path = status.sha256 = ""
        return await self._watch(resource, work)

    async def _forget(self, weights: Weights) -> Result:
        if weights.format == "gguf":
            try:
                await asyncio.to_thread(self._puller.discard_parts, weights)
            except Conflict:  # another process is pulling the same file for a model of its own: the parts are its parts
                return Result(gone=True)
        return Result(gone=True)

    def _ready(self, weights: Weights, status: ModelStatus) -> Result:
        path = self._puller.path(weights)
        status.path, status.sha256 = str(path), weights.sha256
        status.bytes_done = status.bytes_total = path.stat().st_size
        status.set_condition("True", "Verified", f"{path.name} has the SHA-256 that was declared")
        return Result()

    async def _watch(self, resource: Resource, work: Work) -> Result:
        """Report the pull's progress until it ends or this step does."""
        pull, status = self._pulls[resource.key], resource.status
        while pull.running and work.remaining_seconds > STEP_MARGIN_SECONDS:
            _report(status, pull.progress)
            await work.save()
            await asyncio.sleep(PROGRESS_SECONDS)
        _report(status, pull.progress)
        if pull.running:
            return Result(requeue_after_seconds=0.0)
        del self._pulls[resource.key]
        error = pull.error
        if error is None:
            return self._ready(pull.weights, status)
        if isinstance(error, Conflict):
            status.bytes_done = self._puller.bytes_so_far(pull.weights)
            status.set_condition("False", "Pulling", "another process of this machine is pulling the file")
            return Result(requeue_after_seconds=1.0)
        return _failed(status, error)


def _report(status: ModelStatus, progress: Progress) -> None:
    status.source = progress.source or status.source
    status.bytes_done, status.bytes_total = progress.bytes_done, progress.bytes_total
    status.set_condition("False", "Pulling", f"from {progress.source}" if progress.source else "checking the file")


def _failed(status: ModelStatus, error: FalajError) -> Result:
    """Say why the pull failed, in a word that scripts can compare, and when it is tried again."""
    if isinstance(error, Terminal) and error.where == "sha256":
        status.set_condition("False", "WrongHash", str(error))
        return Result(requeue_after_seconds=WRONG_HASH_RETRY_SECONDS)
    if isinstance(error, LimitExceeded):
        status.set_condition("False", "DiskFull", str(error))
        return Result(requeue_after_seconds=RETRY_SECONDS)
    if isinstance(error, Transient | Terminal):
        status.set_condition("False", "NoSource", str(error))
        return Result(requeue_after_seconds=RETRY_SECONDS)
    raise error


class EndpointController:
    """Has the declared number of replicas of a model running on a site.

    Args:
        store: to read models and sites.
        engines: the replica engines of this site, by name: ``llamacpp`` and ``e5``.
    """

    kind = "Endpoint"
    resync_seconds = 5.0

    def __init__(self, store: Store, engines: Mapping[str, ReplicaEngine]) -> None:
        self._store = store
        self._engines = dict(engines)
        self._orphans_at = 0.0

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """Start, change or stop replicas until there are as many as declared, and report how each is."""
        await self._remove_orphans()
        if resource.deleting:
            await self._keep(resource, 0, engine=None)
            left = [name for engine in self._engines.values() for name in await _replicas_of(engine, resource.key)]
            resource.status.replicas = []
            resource.status.set_condition("False", "Stopping", f"{len(left)} replicas are stopping")
            return Result(requeue_after_seconds=0.3) if left else Result(gone=True)
        spec: EndpointSpec = resource.spec
        status: EndpointStatus = resource.status
        model = await self._store.get(Key("Model", "", spec.model))
        weights = effective(model.spec)
        if weights.task == "chat" and spec.context_tokens_max > weights.context_tokens_max:
            raise Terminal(
                f"the endpoint wants a context of {spec.context_tokens_max} tokens; "
                f"model {spec.model!r} was trained for {weights.context_tokens_max}",
                where="spec.context_tokens_max",
                hint=f"give {weights.context_tokens_max} or less",
            )
        status.task, status.model = weights.task, spec.model
        status.engine = ENGINE_OF_FORMAT[weights.format]
        if not model.status.ready:
            reason = model.status.condition()
            status.set_condition(
                "False", "WaitingForModel", f"model {spec.model!r}: {reason.reason if reason else 'not looked at yet'}"
            )
            return Result(requeue_after_seconds=5.0)  # its news wake this one earlier
        status.site = await self._placed(spec, status.site)
        return await self._converge(resource, model.status.path)

    async def _placed(self, spec: EndpointSpec, before: str) -> str:
        """The endpoint's site. Once chosen it stays, also while it is not ready: its replicas may well answer."""
        sites = await self._store.list("Site")
        standing = {site.metadata.name for site in sites if site.spec.role == "data" and not site.deleting}
        return before if before in standing and spec.site in {None, before} else place(sites, spec.site)

    async def _converge(self, resource: Resource, path: str) -> Result:
        spec: EndpointSpec = resource.spec
        engine = self._engines[resource.status.engine]
        for number in range(spec.replicas):
            await engine.create(_replica_spec(resource.key, number, spec, path))
        await self._keep(resource, spec.replicas, engine=engine)
        states = [await engine.observe(_replica_name(resource.key, number)) for number in range(spec.replicas)]
        resource.status.replicas = [
            Replica(name=state.name, url=state.url, ready=state.ready, pid=state.pid, message=state.message)
            for state in states
            if state is not None
        ]
        return _judge(resource.status, spec.replicas)

    async def _keep(self, resource: Resource, count: int, *, engine: ReplicaEngine | None) -> None:
        """Stop this endpoint's replicas, but the first ``count`` of ``engine``."""
        wanted = {_replica_name(resource.key, number) for number in range(count)}
        for each in self._engines.values():
            for name in await _replicas_of(each, resource.key):
                if each is not engine or name not in wanted:
                    await each.delete(name)

    async def _remove_orphans(self) -> None:
        """Stop replicas whose endpoint no longer exists; the row goes last, so this heals only what went wrong."""
        if time.monotonic() < self._orphans_at:
            return
        self._orphans_at = time.monotonic() + ORPHANS_SECONDS
        for engine in self._engines.values():
            for name in await engine.list():
                project, _, rest = name.partition(".")  # an endpoint's name may hold dots, a project's not
                endpoint = rest.rpartition(".")[0]
                if await self._store.find(Key("Endpoint", project, endpoint)) is None:
                    await engine.delete(name)


def _judge(status: EndpointStatus, wanted: int) -> Result:
    """Set the condition from the replicas, and say when to look again."""
    ready = sum(replica.ready for replica in status.replicas)
    if wanted == 0:
        status.set_condition("False", "ScaledToZero", "no replicas are declared; requests are refused")
        return Result()
    if ready == wanted:
        status.set_condition("True", "ReplicasReady", f"{ready} of {wanted} replicas are ready")
        return Result()
    problems = "; ".join(f"{r.name}: {r.message}" for r in status.replicas if not r.ready and r.message)
    message = f"{ready} of {wanted} replicas are ready{f' ({problems})' if problems else ''}"
    # One ready replica answers: the endpoint does what it was declared for, with less room.
    status.set_condition("True" if ready else "False", "SomeReplicasReady" if ready else "Starting", message)
    return Result(requeue_after_seconds=STARTING_SECONDS)


def _replica_name(key: Key, number: int) -> str:
    """``project.endpoint.number``: only the endpoint's name may hold dots, so no two endpoints share one."""
    return f"{key.project}.{key.name}.{number}"


async def _replicas_of(engine: ReplicaEngine, key: Key) -> list[str]:
    return [name for name in await engine.list() if name.rpartition(".")[0] == f"{key.project}.{key.name}"]


def _replica_spec(key: Key, number: int, spec: EndpointSpec, path: str) -> ReplicaSpec:
    return ReplicaSpec(
        name=_replica_name(key, number),
        path=Path(path) if path else None,
        alias=spec.model,
        context_tokens_max=spec.context_tokens_max,
        concurrency_max=spec.concurrency_max,
        threads=spec.threads,
        idle_seconds_max=spec.idle_seconds_max,
    )
