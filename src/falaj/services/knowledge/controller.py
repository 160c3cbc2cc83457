"""Keeps what is searchable equal to what is in the sources: the controller of KnowledgeBase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from falaj.engines.interface import IndexDamaged, ObjectStore, VectorIndex
from falaj.errors import LimitExceeded, NotFound, Transient
from falaj.region.reconciler import Result, Work
from falaj.region.resource import Key, Resource
from falaj.region.snapshot import Snapshot
from falaj.services.knowledge.documents import DOCUMENTS_MAX, Documents, Row
from falaj.services.knowledge.ingestion import Ingestion, Recipe, Source, recipe_of
from falaj.services.knowledge.kinds import KNOWLEDGE_BASE, KnowledgeBaseStatus
from falaj.services.models.gateway import Gateway
from falaj.services.storage.objects import INDEX_BUCKET, TEXTS_BUCKET, s3_bucket

#: Dimensions of multilingual-e5-small, the one embedding model there is.
_DIMENSIONS = 384
#: After so many documents the index is folded together, in the middle of a long ingestion too.
_OPTIMISE_DOCUMENTS = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """What differs between the sources and the rows."""

    sources: Mapping[str, Source]
    known: Mapping[str, Row]
    recipe: str

    def current(self, name: str) -> Row | None:
        """The row of a document, when it tells about the object as it is now."""
        row, source = self.known.get(name), self.sources.get(name)
        same = row and source and row.etag == source.etag and row.recipe == self.recipe
        return row if same else None

    @property
    def pending(self) -> list[Source]:
        """Documents to read: new, changed, or failed by something that may be over."""
        rows = ((source, self.current(source.name)) for source in self.sources.values())
        return [source for source, row in rows if row is None or (row.state == "failed" and row.due)]

    @property
    def vanished(self) -> list[str]:
        """Documents that are no longer in the sources."""
        return [name for name in self.known if name not in self.sources]


class KnowledgeBaseController:
    """Lists the sources, compares them with the rows, and ingests what differs, one document after another."""

    kind = KNOWLEDGE_BASE.name
    resync_seconds = 20.0

    def __init__(
        self,
        objects: ObjectStore,
        index: VectorIndex,
        gateway: Gateway,
        documents: Documents,
        snapshot: Snapshot,
    ) -> None:
        self._objects = objects
        self._index = index
        self._documents = documents
        self._snapshot = snapshot
        self._ingestion = Ingestion(objects, index, gateway, documents)
        self._unfolded: dict[Key, int] = {}

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """Move one step: remove what vanished, read what changed, and say how far it is."""
        if resource.deleting:
            return await self._clean_up(resource.key, work)
        await self._ensure_buckets()
        recipe = recipe_of(resource, self._snapshot)
        sources = await self._list(resource)
        known = await self._documents.known(resource.key)
        plan = Plan(sources, known, recipe.fingerprint)
        try:
            if plan.vanished or plan.pending:
                await self._index.create(recipe.index, _DIMENSIONS)
            for name in plan.vanished:
                await self._ingestion.remove(recipe.index, resource.key, name, work)
                self._unfolded[resource.key] = self._unfolded.get(resource.key, 0) + 1
            await self._ingest(plan, recipe, resource, work)
            plan = Plan(sources, await self._documents.known(resource.key), recipe.fingerprint)
            self._report(plan, resource)
            if plan.pending:
                return Result(requeue_after_seconds=0.0)
            return await self._check(plan, recipe)
        except IndexDamaged as error:
            return await self._rebuild(resource, recipe, work, error.message)

    async def _ensure_buckets(self) -> None:
        for bucket in {TEXTS_BUCKET, INDEX_BUCKET} - await self._objects.observe_buckets():
            await self._objects.create_bucket(bucket)

    async def _list(self, resource: Resource) -> dict[str, Source]:
        """Every object of the sources, by document name.

        Raises:
            Transient: a bucket does not exist yet. LimitExceeded: there are more documents than allowed.
        """
        sources: dict[str, Source] = {}
        for source in resource.spec.sources:
            bucket = s3_bucket(resource.key.project, source.bucket)
            try:
                async for item in self._objects.list(bucket, source.prefix):
                    if item.key.endswith("/"):
                        continue  # a folder marker that S3 browsers leave behind
                    name = f"{source.bucket}/{item.key}"
                    sources[name] = Source(name, bucket, item.key, item.etag, item.size_bytes)
                    if len(sources) > DOCUMENTS_MAX:
                        raise LimitExceeded(
                            f"the sources hold more than {DOCUMENTS_MAX:,} documents",
                            hint="narrow the prefixes, or spread the documents over several knowledge bases",
                        )
            except NotFound as error:
                raise Transient(
                    f"the bucket {source.bucket!r} does not exist yet",
                    hint=f"declare it: kind Bucket, project {resource.key.project}, name {source.bucket}",
                    retry_after_seconds=10.0,
                ) from error
        return sources

    async def _ingest(self, plan: Plan, recipe: Recipe, resource: Resource, work: Work) -> None:
        """Read pending documents until all are read or the step's time is over.

        The first failure that may pass is charged to its document, the second in a row to the world.

        Raises:
            Transient: two documents in a row met something that is away.
        """
        failures = 0
        rows = dict(plan.known)
        for source in plan.pending:
            if work.remaining_seconds <= 0:
                return
            attempts = row.attempts if (row := plan.current(source.name)) else 0
            try:
                outcome = await self._ingestion.ingest(recipe, source, work, attempts=attempts)
            except Transient:
                failures += 1
                if failures > 1:
                    raise
                continue
            failures = 0
            if outcome is None:
                continue
            state = "failed" if outcome.reason else "ready"
            rows[source.name] = Row(source.name, source.etag, plan.recipe, state, outcome.chunks, 0, due=False)
            self._report(Plan(plan.sources, rows, plan.recipe), resource)
            await work.save()
            if outcome.reason:
                await work.event("DocumentFailed", f"{source.name}: {outcome.reason}: {outcome.message}", warning=True)
            await self._fold(recipe, 1)

    async def _fold(self, recipe: Recipe, written: int) -> None:
        """Count writes to the index, and optimise it when there were enough."""
        count = self._unfolded[recipe.base] = self._unfolded.get(recipe.base, 0) + written
        if count >= _OPTIMISE_DOCUMENTS:
            await self._index.optimise(recipe.index)
            self._unfolded[recipe.base] = 0

    async def _check(self, plan: Plan, recipe: Recipe) -> Result:
        """With everything read: fold the index, and make sure that it holds what the rows say.

        Raises:
            IndexDamaged: it does not.
        """
        if self._unfolded.pop(recipe.base, 0):
            await self._index.optimise(recipe.index)
        if any(row.attempts for row in plan.known.values()):
            return Result()  # what such a document left in the index is not known before it is read
        expected = sum(row.chunks for row in plan.known.values() if row.state == "ready")
        held = await self._index.observe(recipe.index)
        if (held or 0) != expected:
            raise IndexDamaged(f"the index holds {'nothing' if held is None else held} of {expected} passages")
        return Result()

    async def _rebuild(self, resource: Resource, recipe: Recipe, work: Work, why: str) -> Result:
        """Drop the index and forget which documents are in it. Vectors are kept, so reading again is quick."""
        status: KnowledgeBaseStatus = resource.status
        status.documents_ready = status.documents_failed = status.chunks = 0
        status.set_condition("False", "Rebuilding", f"the index is made anew from the documents: {why}")
        await work.event("IndexRebuilt", f"the index is made anew from the documents: {why}", warning=True)
        await self._documents.forget_all(recipe.base, work.prove, vectors=False)
        await self._index.delete(recipe.index)
        return Result(requeue_after_seconds=2.0)

    async def _clean_up(self, base: Key, work: Work) -> Result:
        await self._documents.prove(work.prove)
        await self._index.delete(f"{base.project}.{base.name}")
        try:
            texts = [item.key async for item in self._objects.list(TEXTS_BUCKET, f"{base.project}/{base.name}/")]
            for key in texts:
                await self._objects.delete(TEXTS_BUCKET, key)
        except NotFound:
            pass  # no knowledge base ever had a document here
        await self._documents.forget_all(base, work.prove, vectors=True)
        self._unfolded.pop(base, None)
        return Result(gone=True)

    def _report(self, plan: Plan, resource: Resource) -> None:
        """Write counts and the Ready condition into the status."""
        status: KnowledgeBaseStatus = resource.status
        rows = [row for name in plan.sources if (row := plan.current(name))]
        was_ready = status.ready
        status.documents = len(plan.sources)
        status.documents_ready = sum(row.state == "ready" for row in rows)
        status.documents_failed = sum(row.state == "failed" for row in rows)
        status.chunks = sum(row.chunks for row in rows)
        left = status.documents - status.documents_ready - status.documents_failed
        counts = f"{status.documents_ready} of {status.documents} documents, {status.chunks} passages"
        failed = f"; {status.documents_failed} failed" if status.documents_failed else ""
        if not plan.sources:
            status.set_condition("False", "NoDocuments", "the sources hold no documents yet")
        elif left and not (was_ready and status.documents_ready):
            status.set_condition("False", "Ingesting", f"{counts}{failed}")
        elif left:
            status.set_condition("True", "Updating", f"{counts}{failed}; {left} to read")
        elif not status.documents_ready:
            status.set_condition("False", "AllFailed", f"none of {status.documents} documents can be read")
        else:
            status.set_condition("True", "Indexed" if not failed else "IndexedWithFailures", f"{counts}{failed}")
