"""The reconciler: brings what is there towards what was declared, resource by resource, again and again.

Level-triggered: a controller is told *which* resource, never *what happened*. It reads the resource and the world,
moves one step, and reports conditions; it can be killed at any line and run again. How a step ends decides what comes
next:

================  ======================================================================================
returned          looked at again after ``requeue_after_seconds``, or after the kind's resync time
``Transient``     again after its ``retry_after_seconds``
``Terminal``      not again until the spec, or something that it names, changes
other errors      again after a backoff that doubles from 1 s to 5 min; the condition says what is wrong
================  ======================================================================================
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from falaj.errors import FalajError, LimitExceeded, Terminal, Transient
from falaj.region import events
from falaj.region.database import Connection, Database
from falaj.region.events import Happening
from falaj.region.lease import Claim, Finished, Leases
from falaj.region.resource import READY, Resource
from falaj.region.store import Store

logger = logging.getLogger(__name__)

BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 1.0, 300.0
RETRY_SECONDS_MIN, REQUEUE_SECONDS_MIN = 0.2, 0.05
DRAIN_SECONDS = 5.0
RELEASE_BATCH_MAX = 256
PRUNE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a controller found after its step.

    Attributes:
        requeue_after_seconds: look again after this time instead of the kind's resync time.
        gone: the resource was deleting and everything it held is cleaned up; the kernel removes the row.
    """

    requeue_after_seconds: float | None = None
    gone: bool = False


class Controller(Protocol):
    """Knows one kind. ``reconcile`` changes ``resource.status`` in place; the kernel writes it when it changed."""

    kind: str
    resync_seconds: float

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """Move one step from what is there towards ``resource.spec``, or clean up when ``resource.deleting``."""


class Work:
    """What a controller may do to its own resource while it holds the lease.

    Attributes:
        token: the fencing token, to store beside effects in further systems.
    """

    def __init__(self, leases: Leases, claim: Claim, step_seconds: float) -> None:
        self._leases = leases
        self._claim = claim
        self._ends = time.monotonic() + step_seconds
        self.token = claim.token
        self.written: dict[str, Any] = claim.resource.status.model_dump(mode="json")

    @property
    def remaining_seconds(self) -> float:
        """The step should end before this; ask for a requeue instead of going on. Negative when it is late."""
        return self._ends - time.monotonic()

    def changed(self) -> dict[str, Any] | None:
        """The status as JSON when it differs from what is written."""
        now: dict[str, Any] = self._claim.resource.status.model_dump(mode="json")
        return now if now != self.written else None

    async def save(self) -> None:
        """Write ``resource.status`` now, so that people see progress.

        Raises:
            Conflict: the lease was lost; stop.
        """
        status = self.changed()
        if status is not None:
            await self._leases.save(self._claim, status, _news(self._claim.resource, self.written, status))
            self.written = status

    async def event(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Tell the owner of the resource what happened; the same again is counted, not repeated.

        Raises:
            Conflict: the lease was lost; stop.
        """
        await self._leases.save(self._claim, None, [Happening(self._claim.resource.key, reason, message, warning)])

    async def prove(self, connection: Connection) -> None:
        """Prove inside a transaction on further tables that this step may still write.

        Raises:
            Conflict: the lease was lost; the transaction rolls back.
        """
        await self._leases.prove(connection, self._claim.resource.key, self.token)


class Reconciler:
    """Works off due resources of the kinds that it has controllers for; several may run on one database.

    Args:
        concurrency: how many resources are worked on at once.
        holder: a name for this process in leases, for people who look.
        lease_seconds: after this time without a sign of life, another process takes the work over.
        step_seconds: what ``Work.remaining_seconds`` starts from.
        step_seconds_max: a step that takes longer is cancelled and counts as an error.
        poll_seconds: the longest time without a look at the queue; notifications make it sooner.
    """

    def __init__(
        self,
        database: Database,
        store: Store,
        controllers: Iterable[Controller],
        *,
        concurrency: int,
        holder: str,
        lease_seconds: float = 30.0,
        step_seconds: float = 30.0,
        step_seconds_max: float = 900.0,
        poll_seconds: float = 5.0,
    ) -> None:
        self._database = database
        self._controllers = {controller.kind: controller for controller in controllers}
        self._leases = Leases(database, store, holder=holder, lease_seconds=lease_seconds)
        self._concurrency = concurrency
        self._step_seconds = step_seconds
        self._step_seconds_max = step_seconds_max
        self._poll_seconds = poll_seconds
        self._held: dict[int, Claim] = {}  # everything that must be renewed: running, or waiting for its release
        self._running: dict[int, asyncio.Task[None]] = {}
        self._finished: asyncio.Queue[Finished] = asyncio.Queue()
        self._look = asyncio.Event()  # there may be something to claim

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until ``stop``; then let running steps end for a moment, cancel the rest, give the leases back."""
        background = [
            asyncio.create_task(loop, name=name)
            for name, loop in (
                ("listen", self._listen()),
                ("renew", self._renew()),
                ("release", self._release()),
                ("prune", self._prune()),
                ("stop", self._watch(stop)),
            )
        ]
        try:
            while not stop.is_set():
                await self._claim_or_wait(stop)
                for task in background:
                    if task.done() and not stop.is_set():
                        task.result()  # a background loop ends only by a defect: fail loudly, the supervisor restarts
            await self._drain()
        finally:
            for task in [*background, *self._running.values()]:
                task.cancel()
            await asyncio.gather(*background, *self._running.values(), return_exceptions=True)

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._look.set()

    async def _claim_or_wait(self, stop: asyncio.Event) -> None:
        """Claim what is due while there is room; else sleep until something may be due."""
        self._look.clear()
        free = self._concurrency - len(self._running)
        wait_seconds = self._poll_seconds
        try:
            if free > 0:
                claims = await self._leases.claim(self._controllers, free)
                for claim in claims:
                    self._start(claim)
                if claims:
                    return
                wait_seconds = await self._leases.next_due_seconds(self._controllers, self._poll_seconds)
        except FalajError as error:
            logger.warning("cannot claim work: %s", error)
            wait_seconds = 0.5
        try:
            async with asyncio.timeout(max(0.02, wait_seconds)):
                await self._look.wait()
        except TimeoutError:
            return
        if not stop.is_set():
            await asyncio.sleep(0.005)  # what was woken together is claimed together

    def _start(self, claim: Claim) -> None:
        """Start a step; one of ours on the same resource, whose lease must have ended unnoticed, is ended before."""
        key = claim.resource.key
        stale = [task for token, task in self._running.items() if self._held[token].resource.key == key]
        self._held[claim.token] = claim
        task = asyncio.create_task(self._step(claim, stale), name=str(key))
        self._running[claim.token] = task
        task.add_done_callback(lambda _: self._ended(claim.token))

    def _ended(self, token: int) -> None:
        del self._running[token]
        self._look.set()

    async def _step(self, claim: Claim, stale: Sequence[asyncio.Task[None]]) -> None:
        """Run one step of a controller and queue how it ended."""
        for task in stale:
            task.cancel()
        if stale:
            await asyncio.wait(stale)
        resource = claim.resource
        work = Work(self._leases, claim, self._step_seconds)
        controller = self._controllers[resource.kind.name]
        result, error = Result(), None
        try:
            if claim.in_use:
                resource.status.set_condition("False", "Deleting", "waits until what uses it, or is inside it, is gone")
            else:
                result = await self._bounded(controller, resource, work)
        except asyncio.CancelledError:
            self._finished.put_nowait(Finished(claim, 0.0, claim.failures))  # forgotten if the lease was lost
            raise
        except FalajError as raised:
            error = raised
        except Exception as raised:  # one controller's defect must not stop the others; it is logged
            logger.exception("%s: unexpected error", resource.key)
            error = FalajError(f"internal error: {type(raised).__name__}: {raised}", hint="see the log of `control`")
        self._finished.put_nowait(_finish(claim, work, result, error, controller.resync_seconds))

    async def _bounded(self, controller: Controller, resource: Resource, work: Work) -> Result:
        scope = asyncio.timeout(self._step_seconds_max)
        try:
            async with scope:
                return await controller.reconcile(resource, work)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise Transient(
                f"a step took longer than {self._step_seconds_max:.0f} s and was ended", retry_after_seconds=30.0
            ) from error

    async def _release(self) -> None:
        """Write results in batches: while one batch is written, the next gathers."""
        while True:
            batch = [await self._finished.get()]
            while not self._finished.empty() and len(batch) < RELEASE_BATCH_MAX:
                batch.append(self._finished.get_nowait())
            await self._release_batch(batch)
            for finished in batch:
                self._held.pop(finished.claim.token, None)
                self._finished.task_done()

    async def _release_batch(self, batch: list[Finished]) -> None:
        """Release until it is written, or until the leases have ended: then whoever claims next does the work again."""
        while batch := [finished for finished in batch if finished.claim.deadline > time.monotonic()]:
            try:
                if await self._leases.release(batch):
                    self._look.set()
            except (Transient, LimitExceeded) as error:
                logger.warning("cannot write %d results yet: %s", len(batch), error)
                await asyncio.sleep(0.5)
            except FalajError as error:
                if len(batch) > 1:
                    for finished in batch:
                        await self._release_batch([finished])
                    return
                (finished,) = batch
                logger.warning("%s: its status cannot be stored: %s", finished.claim.resource.key, error)
                batch = [Finished(finished.claim, BACKOFF_SECONDS_MAX, finished.claim.failures + 1)]
                if finished.status is None:
                    return
            else:
                soonest = min((f.delay_seconds for f in batch if f.delay_seconds is not None), default=None)
                if soonest is not None and soonest < self._poll_seconds:
                    self._look.set()
                return

    async def _renew(self) -> None:
        """Keep the leases of long steps; cancel a step whose lease was lost, before another may start on it."""
        lease_seconds = self._leases.lease_seconds
        while True:
            await asyncio.sleep(lease_seconds / 8)
            soon = time.monotonic() + lease_seconds * 0.7
            aging = [claim for claim in self._held.values() if claim.deadline < soon]
            lost: set[int] = set()
            if aging:
                try:
                    async with asyncio.timeout(lease_seconds / 8):
                        lost = await self._leases.renew(aging)
                except (FalajError, TimeoutError) as error:
                    logger.warning("cannot renew %d leases: %s", len(aging), error or "no answer in time")
            late = time.monotonic() + lease_seconds / 4
            for claim in aging:
                task = self._running.get(claim.token)
                if task is not None and (claim.token in lost or claim.deadline < late):
                    logger.warning("%s: the lease was lost; its step is cancelled", claim.resource.key)
                    claim.deadline = 0.0
                    task.cancel()

    async def _listen(self) -> None:
        async with aclosing(self._database.listen("falaj_due")) as notifications:
            async for _ in notifications:
                self._look.set()

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 -- spreads load
            try:
                await events.prune(self._database)
            except FalajError as error:
                logger.warning("cannot prune events: %s", error)

    async def _drain(self) -> None:
        """Let running steps end for a moment, cancel the others, and give every lease back."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=DRAIN_SECONDS)
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=DRAIN_SECONDS)
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._finished.join()
        except TimeoutError:
            logger.warning("%d leases could not be given back; they end by themselves", len(self._held))


def _finish(claim: Claim, work: Work, result: Result, error: FalajError | None, resync_seconds: float) -> Finished:
    """How a step ended, as it is written: status when it changed, events, and when to look again."""
    resource = claim.resource
    if error is not None:
        reason = "InternalError" if type(error) is FalajError else error.code
        resource.status.set_condition("False", reason, str(error))
    resource.status.observedGeneration = resource.metadata.generation
    status = work.changed()
    return Finished(
        claim,
        delay_seconds=_delay(claim, result, error, resync_seconds),
        failures=0 if error is None else claim.failures + 1,
        status=status,
        gone=result.gone and error is None,
        happenings=_news(resource, work.written, status, failed=error is not None) if status is not None else (),
    )


def _delay(claim: Claim, result: Result, error: FalajError | None, resync_seconds: float) -> float | None:
    """Seconds until the next look, with jitter so that what failed together does not come back together."""
    spread = random.uniform(1.0, 1.2)  # noqa: S311 -- not a secret
    if error is None:
        requeue = result.requeue_after_seconds
        return resync_seconds * spread if requeue is None else max(REQUEUE_SECONDS_MIN, requeue)
    if isinstance(error, Transient):
        return max(RETRY_SECONDS_MIN, error.retry_after_seconds) * spread
    if isinstance(error, Terminal) and not claim.resource.deleting:
        return None
    return min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2.0 ** min(claim.failures, 30)) * spread


def _news(
    resource: Resource, before: dict[str, Any], after: dict[str, Any], *, failed: bool = False
) -> list[Happening]:
    """An event when the Ready condition changed: in status or reason; after an error, in its message too."""

    def ready(status: dict[str, Any]) -> dict[str, Any]:
        conditions: list[dict[str, Any]] = status["conditions"]
        return next((condition for condition in conditions if condition["type"] == READY), {})

    fields = ("status", "reason", "message") if failed else ("status", "reason")
    was, now = ready(before), ready(after)
    if not now or all(was.get(name) == now[name] for name in fields):
        return []
    return [Happening(resource.key, now["reason"], now["message"], warning=failed)]
