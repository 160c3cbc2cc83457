"""Admission: the one door through which specs are written.

Parse → default → authorise → quota → write row, references and events in one transaction. A batch is admitted whole or
not at all. One admission runs at a time in a region, so that what it checks still holds when it writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.types.json import Jsonb

from falaj.errors import Conflict, Denied, FalajError, Invalid, LimitExceeded, NotFound, nearest
from falaj.region.database import Connection, Database
from falaj.region.declaration import Declaration, declare, together
from falaj.region.events import Happening, record
from falaj.region.kinds import PROJECT, SITE, ProjectSpec
from falaj.region.resource import API_VERSION, SYSTEM_PROJECT, Key, Kind, Manifest, Scope, SpecModel
from falaj.region.store import REFERRERS, Store, columns, keys_of, lock, wake
from falaj.trust.identity import Principal

MANIFESTS_MAX = 2000
NAMED_MAX = 10
LOCK_SECONDS = 10

_ADMISSION_LOCK = 0x66616C616A03

_EXISTING = """
SELECT r.* FROM resource r JOIN unnest(%s::text[], %s::text[], %s::text[]) AS wanted (kind, project, name)
    USING (kind, project, name)
"""
_INSERT = """
INSERT INTO resource (kind, project, name, labels, spec)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::jsonb[], %s::jsonb[])
"""
_UPDATE = """
UPDATE resource r SET labels = new.labels, spec = new.spec, generation = r.generation + 1,
    wakes = r.wakes + 1, reconcile_at = now(), failures = 0
FROM unnest(%s::text[], %s::text[], %s::text[], %s::jsonb[], %s::jsonb[]) AS new (kind, project, name, labels, spec)
WHERE (r.kind, r.project, r.name) = (new.kind, new.project, new.name)
"""
_FORGET_REFERENCES = """
DELETE FROM reference f USING unnest(%s::text[], %s::text[], %s::text[]) AS old (kind, project, name)
WHERE (f.kind, f.project, f.name) = (old.kind, old.project, old.name)
"""
_REFER = """
INSERT INTO reference (kind, project, name, target_kind, target_project, target_name)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
"""
_USERS = """
SELECT f.kind, f.project, f.name FROM reference f JOIN resource r USING (kind, project, name)
WHERE (f.target_kind, f.target_project, f.target_name) = (%s, %s, %s) AND r.deletion_requested_at IS NULL
ORDER BY f.kind, f.project, f.name
"""
_CONTENTS = """
SELECT kind, count(*) AS total FROM resource WHERE project = %s AND deletion_requested_at IS NULL
GROUP BY kind ORDER BY kind
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What admission did with one manifest."""

    key: Key
    action: Literal["created", "updated", "unchanged", "deleting"]
    generation: int

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON-ready fields."""
        return {
            "kind": self.key.kind,
            "project": self.key.project,
            "name": self.key.name,
            "action": self.action,
            "generation": self.generation,
        }


class Admission:
    """The only writer of specs."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store

    async def apply(
        self, principal: Principal, manifests: Sequence[Manifest], *, dry_run: bool = False
    ) -> list[Outcome]:
        """Declare resources: all of them, or none when one is refused.

        Args:
            principal: who asks; a project's key writes in its project alone.
            manifests: at most ``MANIFESTS_MAX``; ``metadata.generation``, when given, must be the current one.
            dry_run: check everything, write nothing.

        Raises:
            Invalid: a manifest is wrong, or one resource is declared twice. Denied: outside of the caller's project.
            NotFound: the project does not exist. Conflict: stale generation, or it is being deleted.
            LimitExceeded: the project's quota, or too many manifests.
        """
        return await self._admit(principal, manifests, dry_run=dry_run, create=False)

    async def create(self, principal: Principal, manifest: Manifest) -> Outcome:
        """Declare a resource that does not exist yet.

        Raises:
            Conflict: it exists. Further errors are those of ``apply``.
        """
        (outcome,) = await self._admit(principal, [manifest], dry_run=False, create=True)
        return outcome

    async def delete(self, principal: Principal, key: Key) -> Outcome:
        """Ask for a resource's deletion: its controller cleans up, then the row goes. Asking again changes nothing.

        Raises:
            Denied: outside of the caller's project. NotFound: there is none.
            Conflict: others name it, or the project is not empty; the message says which or how many.
        """
        _authorise(principal, self._store.kinds.get(key.kind), key.project, str(key))
        async with self._database.transaction() as connection:
            await _enter(connection)
            cursor = await connection.execute(_EXISTING, columns([key]))
            row = await cursor.fetchone()
            if row is not None and row["deletion_requested_at"] is None:
                await self._refuse_if_needed(connection, key, ready=row["ready"])
                await lock(connection, [key])
                await connection.execute(
                    "UPDATE resource SET deletion_requested_at = now(), wakes = wakes + 1, reconcile_at = now(),"
                    " failures = 0 WHERE (kind, project, name) = (%s, %s, %s)",
                    (key.kind, key.project, key.name),
                )
                await record(connection, [Happening(key, "DeletionRequested", f"by {principal.name}")])
        if row is None:
            raise await self._store.missing(key)
        return Outcome(key, "deleting", row["generation"])

    async def _refuse_if_needed(self, connection: Connection, key: Key, *, ready: bool) -> None:
        if key == Key(PROJECT.name, "", SYSTEM_PROJECT):
            raise Conflict(f"project {SYSTEM_PROJECT!r} belongs to the region and stays", where=str(key))
        if key.kind == SITE.name and ready:
            raise Conflict("the site is running", where=str(key), hint="stop it first: `falaj down` on its machine")
        if key.kind == PROJECT.name:
            cursor = await connection.execute(_CONTENTS, (key.name,))
            counts = [f"{row['total']} {row['kind']}" for row in await cursor.fetchall()]
            if counts:
                raise Conflict(
                    f"the project is not empty: it holds {', '.join(counts)}", where=str(key), hint="delete these first"
                )
        cursor = await connection.execute(_USERS, (key.kind, key.project, key.name))
        users = [str(Key(row["kind"], row["project"], row["name"])) for row in await cursor.fetchall()]
        if users:
            more = f" and {len(users) - NAMED_MAX} more" if len(users) > NAMED_MAX else ""
            raise Conflict(
                f"it is used by {', '.join(users[:NAMED_MAX])}{more}",
                where=str(key),
                hint="delete these first, or make them use another",
            )

    async def _admit(
        self, principal: Principal, manifests: Sequence[Manifest], *, dry_run: bool, create: bool
    ) -> list[Outcome]:
        declared = self._declared(principal, manifests)
        async with self._database.transaction() as connection:
            await _enter(connection)
            cursor = await connection.execute(_EXISTING, columns(d.key for d in declared))
            rows = {Key(r["kind"], r["project"], r["name"]): r for r in await cursor.fetchall()}
            refused: list[FalajError] = []
            outcomes: list[Outcome] = []
            for declaration in declared:
                try:
                    outcomes.append(self._outcome(declaration, rows.get(declaration.key), create=create))
                except FalajError as error:
                    refused.append(error)
            if refused:
                raise together(refused)
            actions = {outcome.key: outcome.action for outcome in outcomes}
            created = [d for d in declared if actions[d.key] == "created"]
            updated = [d for d in declared if actions[d.key] == "updated"]
            projects = {d.key.name: d.spec for d in declared if d.key.kind == PROJECT.name}
            await _check_projects(connection, created, projects)
            await _check_references(connection, [*created, *updated])
            if not dry_run:
                await _write(connection, principal, created, updated)
        return outcomes

    def _declared(self, principal: Principal, manifests: Sequence[Manifest]) -> list[Declaration]:
        """Every manifest checked by itself, for rights, and against the others of its batch."""
        if len(manifests) > MANIFESTS_MAX:
            raise LimitExceeded(
                f"{len(manifests):,} manifests; at most {MANIFESTS_MAX:,} are taken at once", hint="apply them in parts"
            )
        declared: dict[Key, Declaration] = {}
        refused: list[FalajError] = []
        for nth, manifest in enumerate(manifests, start=1):
            try:
                declaration = declare(manifest, self._store.kinds, project=principal.project, nth=nth)
                _authorise(principal, declaration.kind, declaration.key.project, declaration.where)
                first = declared.setdefault(declaration.key, declaration)
                if first is not declaration:
                    raise Invalid(
                        f"{declaration.key} is declared twice, first at {first.where}",
                        where=declaration.where,
                        hint="keep one of them",
                    )
            except FalajError as error:
                refused.append(error)
        if refused:
            raise together(refused)
        return list(declared.values())

    def _outcome(self, declaration: Declaration, row: Mapping[str, Any] | None, *, create: bool) -> Outcome:
        """What is to be done with a declaration, given its present row."""
        key, where = declaration.key, declaration.where
        generation = 0 if row is None else int(row["generation"])
        if row is not None and create:
            raise Conflict(f"{key} exists already", where=where, hint="change it with PUT or apply")
        if row is not None and row["deletion_requested_at"] is not None:
            raise Conflict(f"{key} is being deleted", where=where, hint=f"wait: falaj wait {key} --for delete")
        if declaration.generation not in {0, generation} or (
            row is not None and declaration.uid not in {"", str(row["uid"])}
        ):
            found = f"is at generation {generation}" if row is not None else "does not exist (any more)"
            raise Conflict(
                f"{key} {found}, the manifest was made from generation {declaration.generation}",
                where=f"{where}: metadata.generation",
                hint="read it again and repeat the change",
            )
        if row is None:
            return Outcome(key, "created", 1)
        if row["spec"] == _stored(declaration) and row["labels"] == declaration.labels:
            return Outcome(key, "unchanged", generation)
        return Outcome(key, "updated", generation + 1)


async def bootstrap(admission: Admission, store: Store, site: str, jurisdiction: str) -> None:
    """Declare what every region has: its site, and the project whose endpoints all may use. Changes nothing else."""
    principal = Principal(name="falaj", key_id="", project=None)
    key = Key(SITE.name, "", site)
    found = await store.find(key)
    spec = (
        {"jurisdiction": jurisdiction} if found is None else {**found.spec.model_dump(), "jurisdiction": jurisdiction}
    )
    labels = {} if found is None else found.metadata.labels
    manifests: list[Manifest] = [_manifest(SITE.name, site, spec, labels)]
    if await store.find(Key(PROJECT.name, "", SYSTEM_PROJECT)) is None:
        what = {"description": "What the region itself offers to every project"}
        manifests.append(_manifest(PROJECT.name, SYSTEM_PROJECT, what, {}))
    await admission.apply(principal, manifests)


def _manifest(kind: str, name: str, spec: Mapping[str, Any], labels: Mapping[str, str]) -> Manifest:
    metadata = {"name": name, "labels": dict(labels)}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": dict(spec)}


def _authorise(principal: Principal, kind: Kind, project: str, where: str) -> None:
    """A key without a project may write everywhere; a project's key in its project, and nothing of the region."""
    if principal.project is None:
        return
    if kind.scope is Scope.REGION:
        raise Denied(
            f"the key {principal.name!r} is of project {principal.project!r}; a {kind.name} belongs to the region",
            where=where,
            hint="ask the region's administrator",
        )
    if project != principal.project:
        raise Denied(
            f"the key {principal.name!r} is of project {principal.project!r} and may not write in {project!r}",
            where=where,
            hint="use a key of that project",
        )


async def _enter(connection: Connection) -> None:
    """Wait for the turn: from here to the end of the transaction, nobody else admits."""
    await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ADMISSION_LOCK,))


async def _check_projects(
    connection: Connection, created: Sequence[Declaration], declared: Mapping[str, SpecModel]
) -> None:
    """The projects of what is new exist and have room. ``declared`` are the projects of the same batch."""
    wanted = Counter(d.key.project for d in created if d.key.project)
    if not wanted:
        return
    cursor = await connection.execute(
        "SELECT p.name, p.spec, p.deletion_requested_at,"
        " (SELECT count(*) FROM resource r WHERE r.project = p.name) AS total"
        " FROM resource p WHERE p.kind = %s AND p.name = ANY(%s)",
        (PROJECT.name, [*wanted]),
    )
    rows = {row["name"]: row for row in await cursor.fetchall()}
    for declaration in created:
        project = declaration.key.project
        if project and project not in rows and project not in declared:
            raise await _no_project(connection, declaration, declared)
        if project in rows and rows[project]["deletion_requested_at"] is not None:
            raise Conflict(f"project {project!r} is being deleted", where=declaration.where)
    for project, more in wanted.items():
        spec = declared.get(project) or ProjectSpec.model_validate(rows[project]["spec"])
        total = rows[project]["total"] if project in rows else 0
        if isinstance(spec, ProjectSpec) and total + more > spec.resources_max:
            raise LimitExceeded(
                f"project {project!r} holds {total} of at most {spec.resources_max} resources; {more} more were named",
                where=project,
                hint="delete some, or raise resources_max of the Project",
            )


async def _no_project(connection: Connection, declaration: Declaration, declared: Iterable[str]) -> NotFound:
    cursor = await connection.execute("SELECT name FROM resource WHERE kind = %s LIMIT 1000", (PROJECT.name,))
    names = [row["name"] for row in await cursor.fetchall()]
    return NotFound(
        f"there is no project {declaration.key.project!r}",
        where=f"{declaration.where}: metadata.project",
        hint=nearest(declaration.key.project, [*names, *declared]) or "declare the Project first, or in the same file",
    )


async def _check_references(connection: Connection, changed: Sequence[Declaration]) -> None:
    """What they name is in their own project, the region, or shared; and it is not on its way out.

    It need not exist yet: a controller waits for it and is woken when it comes.
    """
    targets: dict[Key, Declaration] = {}
    for declaration in changed:
        for target in declaration.references:
            if target.project not in {"", declaration.key.project, SYSTEM_PROJECT}:
                raise Denied(
                    f"{declaration.key} names {target}, which belongs to another project",
                    where=declaration.where,
                    hint=f"share it by declaring it in project {SYSTEM_PROJECT!r}",
                )
            targets.setdefault(target, declaration)
    going = await keys_of(connection, f"{_EXISTING} WHERE r.deletion_requested_at IS NOT NULL", targets)
    for target in going:
        raise Conflict(f"{targets[target].key} names {target}, which is being deleted", where=targets[target].where)


def _stored(declaration: Declaration) -> dict[str, Any]:
    return declaration.spec.model_dump(mode="json")


async def _write(
    connection: Connection, principal: Principal, created: Sequence[Declaration], updated: Sequence[Declaration]
) -> None:
    """Rows, references, events; and a wake-up for those who name what changed, and for projects that grew."""
    changed = [*created, *updated]
    if not changed:
        return
    woken = {*await keys_of(connection, REFERRERS, [d.key for d in changed])}
    woken |= {Key(PROJECT.name, "", d.key.project) for d in created if d.key.project}
    await lock(connection, sorted({*woken, *(d.key for d in updated)}))
    for statement, declared in ((_INSERT, created), (_UPDATE, updated)):
        if declared:
            labels, specs = [Jsonb(d.labels) for d in declared], [Jsonb(_stored(d)) for d in declared]
            await connection.execute(statement, (*columns(d.key for d in declared), labels, specs))
    if updated:
        await connection.execute(_FORGET_REFERENCES, columns(d.key for d in updated))
    references = [(d.key, target) for d in changed for target in d.references]
    if references:
        sources, targets = columns(s for s, _ in references), columns(t for _, t in references)
        await connection.execute(_REFER, (*sources, *targets))
    await wake(connection, woken)
    await record(connection, _happenings(principal, "Created", created))
    await record(connection, _happenings(principal, "Updated", updated))


def _happenings(principal: Principal, reason: str, declared: Iterable[Declaration]) -> list[Happening]:
    return [Happening(d.key, reason, f"by {principal.name}") for d in declared]
