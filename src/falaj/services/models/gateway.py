"""From a caller and an endpoint's name to a replica that answers: the hot path, all from memory.

A name is looked up in the caller's project first, then in ``system``; ``project/name`` says it exactly. What the caller
may not use does not exist for him.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from falaj.engines.interface import Inference, Reply
from falaj.errors import Invalid, NotFound, Transient, nearest
from falaj.region.resource import SYSTEM_PROJECT, Key, Resource
from falaj.region.snapshot import Snapshot
from falaj.services.models.kinds import Replica, Task
from falaj.trust.identity import Principal

#: Requests that may wait at one replica beyond those it works on; more are told to come back.
WAITING_MAX: Final = 32
#: Texts sent to an embedder at once; a longer list goes in several requests, one after the other.
EMBED_BATCH: Final = 64
BUSY_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Served:
    """An endpoint as its callers see it. ``name`` is what they write as ``model``."""

    name: str
    project: str
    endpoint: str
    task: str
    model: str
    site: str
    context_tokens_max: int
    ready: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of unit length, in the order of the texts, and what they cost."""

    vectors: list[list[float]]
    tokens: int
    model: str
    site: str


class Gateway:
    """Routes requests to the least busy ready replica of an endpoint."""

    def __init__(self, snapshot: Snapshot, inference: Inference) -> None:
        self._snapshot = snapshot
        self._inference = inference
        self._in_progress: Counter[str] = Counter()
        self._turn = itertools.count()

    def models(self, principal: Principal) -> list[Served]:
        """The endpoints that the caller may use, by name."""
        own = principal.project
        found = [e for e in self._snapshot.list("Endpoint") if _visible(own, e.metadata.project)]
        return sorted((self._served(own, endpoint) for endpoint in found), key=lambda served: served.name)

    def resolve(self, principal: Principal, endpoint: str | Key) -> Served:
        """The endpoint that a name means for this caller.

        Raises:
            NotFound: there is none that the caller may use; the hint offers the nearest.
        """
        return self._served(principal.project, self._find(principal.project, endpoint))

    def in_progress(self) -> list[tuple[tuple[str, ...], float]]:
        """How many requests each replica is working on or has waiting: ``((url,), number)``, for a gauge."""
        return [((url,), float(number)) for url, number in self._in_progress.items() if number]

    def chat(
        self, principal: Principal, endpoint: str | Key, body: Mapping[str, Any]
    ) -> AbstractAsyncContextManager[Reply]:
        """Have a chat completion made; the reply's bytes are the replica's own. Leaving early ends the generation.

        Another replica is tried when one fails before its first byte.

        Raises:
            NotFound: no such endpoint for this caller. Invalid: it is not for chat, or the request is wrong, such as a
            prompt past the context. Transient: no replica is ready, all are busy, or the replica broke off.
        """
        return self._chat(principal, endpoint, body)

    async def embed(
        self,
        principal_project: str,
        endpoint: str | Key,
        texts: Sequence[str],
        *,
        input_type: Literal["query", "passage"],
    ) -> Embedded:
        """The vectors of texts. An empty ``principal_project`` means a caller of the whole region.

        Raises:
            NotFound, Invalid, Transient: as for ``chat``.
        """
        found = self._find(principal_project or None, endpoint, task="embeddings")
        vectors: list[list[float]] = []
        tokens = 0
        for start in range(0, len(texts), EMBED_BATCH):
            batch = texts[start : start + EMBED_BATCH]
            failed: dict[str, Transient] = {}
            while True:
                replica = self._choose(found, failed)
                try:
                    with self._working(replica):
                        answer = await self._inference.embed(replica.url, batch, input_type=input_type)
                except Transient as error:
                    failed[replica.url] = error
                else:
                    break
            vectors += answer.vectors
            tokens += answer.tokens
        return Embedded(vectors, tokens, found.status.model, found.status.site)

    @asynccontextmanager
    async def _chat(self, principal: Principal, endpoint: str | Key, body: Mapping[str, Any]) -> AsyncIterator[Reply]:
        found = self._find(principal.project, endpoint, task="chat")
        content = orjson.dumps({**body, "model": found.status.model})
        async with AsyncExitStack() as stack:
            yield await self._first_reply(stack, found, content)

    async def _first_reply(self, stack: AsyncExitStack, endpoint: Resource, content: bytes) -> Reply:
        """The reply of the first replica that sends a byte; ``stack`` keeps it open."""
        failed: dict[str, Transient] = {}
        while True:
            replica = self._choose(endpoint, failed)
            try:
                async with AsyncExitStack() as attempt:
                    attempt.enter_context(self._working(replica))
                    reply = await attempt.enter_async_context(
                        self._inference.post(replica.url, "/v1/chat/completions", content)
                    )
                    first = await anext(reply.body, b"")
                    stack.push_async_exit(attempt.pop_all())
                    return Reply(reply.status, reply.content_type, _continued(first, reply.body))
            except Transient as error:
                failed[replica.url] = error

    @contextmanager
    def _working(self, replica: Replica) -> Iterator[None]:
        self._in_progress[replica.url] += 1
        try:
            yield
        finally:
            self._in_progress[replica.url] -= 1
            if not self._in_progress[replica.url]:
                del self._in_progress[replica.url]

    def _choose(self, endpoint: Resource, failed: Mapping[str, Transient]) -> Replica:
        """The least busy ready replica that has not failed in this request; equals take turns."""
        ready: list[Replica] = [replica for replica in endpoint.status.replicas if replica.ready]
        left = [replica for replica in ready if replica.url not in failed]
        if not left and failed:
            raise list(failed.values())[-1]
        if not left:
            raise _not_ready(endpoint)
        turn = next(self._turn) % len(left)
        chosen = min(left[turn:] + left[:turn], key=lambda replica: self._in_progress[replica.url])
        if self._in_progress[chosen.url] >= endpoint.spec.concurrency_max + WAITING_MAX:
            raise Transient(
                f"every replica of endpoint {endpoint.metadata.name!r} has {WAITING_MAX} requests waiting",
                where=str(endpoint.key),
                hint="ask again later, or raise the endpoint's replicas",
                retry_after_seconds=BUSY_RETRY_SECONDS,
            )
        return chosen

    def _find(self, own: str | None, reference: str | Key, *, task: Task | None = None) -> Resource:
        for key in _meanings(own, reference):
            found = self._snapshot.find(key) if _visible(own, key.project) else None
            if found is not None:
                if task is not None and found.status.task not in {task, ""}:
                    raise Invalid(
                        f"endpoint {key.name!r} serves {found.status.task}, not {task}",
                        where="model",
                        hint=nearest("", self._names(own, task)),
                    )
                return found
        wanted = reference.name if isinstance(reference, Key) else reference
        raise NotFound(f"there is no endpoint {wanted!r}", where="model", hint=nearest(wanted, self._names(own, task)))

    def _names(self, own: str | None, task: str | None) -> list[str]:
        visible = [e for e in self._snapshot.list("Endpoint") if _visible(own, e.metadata.project)]
        return [self._served(own, e).name for e in visible if task is None or e.status.task == task]

    def _served(self, own: str | None, endpoint: Resource) -> Served:
        project, name = endpoint.metadata.project, endpoint.metadata.name
        hidden = (
            project == SYSTEM_PROJECT
            and own not in {None, project}
            and self._snapshot.find(Key("Endpoint", own or "", name))
        )
        short = project == own or (project == SYSTEM_PROJECT and not hidden)
        return Served(
            name=name if short else f"{project}/{name}",
            project=project,
            endpoint=name,
            task=endpoint.status.task,
            model=endpoint.status.model or endpoint.spec.model,
            site=endpoint.status.site,
            context_tokens_max=endpoint.spec.context_tokens_max,
            ready=endpoint.status.ready,
        )


def _visible(own: str | None, project: str) -> bool:
    """Whether a caller of project ``own`` (None: of the whole region) may use endpoints of ``project``."""
    return own is None or project in {own, SYSTEM_PROJECT}


def _meanings(own: str | None, reference: str | Key) -> list[Key]:
    """The endpoints that a reference may mean, first wins."""
    if isinstance(reference, Key):
        return [reference]
    project, slash, name = reference.partition("/")
    if slash:
        return [Key("Endpoint", project, name)]
    return [Key("Endpoint", project, reference) for project in (own, SYSTEM_PROJECT) if project]


def _not_ready(endpoint: Resource) -> Transient:
    condition = endpoint.status.condition()
    state = f"{condition.reason}: {condition.message}" if condition else "it was not looked at yet"
    name = endpoint.metadata.name
    hint = f"wait for it: `falaj wait endpoint {name} --project {endpoint.metadata.project}`"
    if endpoint.spec.replicas == 0:
        hint = "raise the endpoint's replicas"
    return Transient(
        f"endpoint {name!r} has no ready replica ({state})",
        where=str(endpoint.key),
        hint=hint,
        retry_after_seconds=BUSY_RETRY_SECONDS,
    )


async def _continued(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for part in rest:
        yield part
