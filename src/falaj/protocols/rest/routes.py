"""The REST wire: resources, and the few things about them that are not resources."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final

from falaj.errors import Denied, NotFound, nearest
from falaj.protocols.http import Call, MethodNotAllowed
from falaj.protocols.rest import openapi, translate, wire
from falaj.protocols.rest.wire import Route
from falaj.protocols.server import unknown_path
from falaj.region import manifest
from falaj.region.admission import Admission, Outcome
from falaj.region.resource import Key, Kind, KindTable, Manifest, Scope
from falaj.region.snapshot import Snapshot
from falaj.region.store import Store
from falaj.services.agents.answer import Answerer
from falaj.services.knowledge.retrieval import Retriever
from falaj.services.models.catalogue import CATALOGUE
from falaj.services.storage.objects import Objects
from falaj.trust.identity import Keys, Principal

API: Final = "/falaj/v1"
OPENAPI: Final = "/openapi.json"
#: How many objects pass through memory at once; further calls wait for their turn.
OBJECT_TRANSFERS_MAX: Final = 4
OBJECT_SECONDS_MAX: Final = 300.0
#: How long a change waits to be seen by the snapshot that further calls are answered from.
SNAPSHOT_SECONDS_MAX: Final = 2.0

_PAGING: Final = {"limit": f"at most so many, 1 to {translate.LIMIT_MAX}", "after": "the 'next' of the page before"}
_LABEL: Final = {"label": "KEY=VALUE; may be given several times, all must hold"}


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the wire speaks for."""

    kinds: KindTable
    store: Store
    admission: Admission
    snapshot: Snapshot
    keys: Keys
    objects: Objects
    retriever: Retriever
    answerer: Answerer
    status: Callable[[Principal], Awaitable[dict[str, Any]]]


class Rest:
    """Serves ``/falaj/v1/…`` and ``/openapi.json``."""

    def __init__(self, rooms: Rooms, *, request_bytes_max: int, object_bytes_max: int, version: str) -> None:
        self._rooms = rooms
        self._request_bytes_max = request_bytes_max
        self._object_bytes_max = object_bytes_max
        self._transfers = asyncio.Semaphore(OBJECT_TRANSFERS_MAX)
        self.routes = [*self._region_routes(), *self._project_routes(), *self._resource_routes()]
        self._patterns = [(_pattern(route.template), route) for route in self.routes]
        self._document = openapi.document(self.routes, rooms.kinds, version)

    async def handle(self, call: Call) -> None:
        """Serve one call."""
        matches = [(match, route) for pattern, route in self._patterns if (match := pattern.fullmatch(call.path))]
        for match, route in matches:
            if route.method == call.method:
                call.route = route.template
                await route.handle(call, match.groupdict())
                return
        if matches:
            call.route = matches[0][1].template
            raise MethodNotAllowed(call.method, (route.method for _, route in matches))
        collection = call.path.removeprefix(f"{API}/").split("/")
        word = collection[2] if collection[0] == "projects" and len(collection) > 2 else collection[0]
        hint = nearest(word, [kind.plural for kind in self._rooms.kinds])
        raise NotFound(f"there is nothing at {call.path[:200]!r}", hint=hint) if hint else unknown_path(call)

    def _region_routes(self) -> list[Route]:
        event_query = {
            "project": "only this project's",
            "kind": "with name: one resource's",
            "name": "with kind",
            "after": "only events with a greater id",
            "limit": _PAGING["limit"],
        }
        return [
            Route("GET", OPENAPI, self._openapi, "This document", "application/json"),
            Route("GET", f"{API}/kinds", self._kinds, "The kind table", wire.KindList),
            Route(
                "POST",
                f"{API}/apply",
                self._apply,
                "Declare resources: all of them or none",
                wire.ApplyBody,
                body="application/yaml",
                query={"dry_run": "true: say what would happen and change nothing"},
            ),
            Route("GET", f"{API}/events", self._events, "What happened", wire.EventList, query=event_query),
            Route("GET", f"{API}/status", self._status, "The region at a glance", wire.StatusBody),
            Route("GET", f"{API}/catalogue", self._catalogue, "The model catalogue", wire.CatalogueList),
            Route(
                "GET", f"{API}/keys", self._list_keys, "API keys", wire.KeyList, query={"project": "only this one's"}
            ),
            Route(
                "POST",
                f"{API}/keys",
                self._create_key,
                "Make an API key",
                wire.KeyFields,
                status=201,
                body=wire.KeyBody,
            ),
            Route("DELETE", f"{API}/keys/{{id}}", self._revoke_key, "Revoke an API key", "", status=204),
        ]

    def _project_routes(self) -> list[Route]:
        project = f"{API}/projects/{{project}}"
        objects = f"{project}/buckets/{{bucket}}/objects"
        base = f"{project}/knowledgebases/{{name}}"
        binary = "application/octet-stream"
        listing = {"prefix": "only keys that begin with it", **_PAGING}
        return [
            Route("GET", f"{project}/credentials", self._credentials, "S3 credentials", wire.CredentialsBody),
            Route("GET", objects, self._list_objects, "List objects", wire.ObjectList, query=listing),
            Route(
                "PUT", f"{objects}/{{key:path}}", self._put_object, "Store an object", wire.ObjectFields, body=binary
            ),
            Route("GET", f"{objects}/{{key:path}}", self._get_object, "Read an object", binary),
            Route("DELETE", f"{objects}/{{key:path}}", self._delete_object, "Delete an object", "", status=204),
            Route("GET", f"{base}/documents", self._documents, "Documents and their state", wire.DocumentList),
            Route(
                "POST", f"{base}/search", self._search, "Search for passages", wire.PassageList, body=wire.SearchBody
            ),
            Route(
                "POST",
                f"{project}/agents/{{name}}/ask",
                self._ask,
                "Ask an agent",
                wire.AnswerBody,
                body=wire.AskBody,
            ),
        ]

    def _resource_routes(self) -> list[Route]:
        routes: list[Route] = []
        for kind in self._rooms.kinds:
            inside = f"{API}/{kind.plural}"
            listing = {**_LABEL, **_PAGING}
            title = f"List: {kind.name}"
            if kind.scope is Scope.PROJECT:
                everywhere = {"project": "only this project's", **listing}
                routes.append(_list_route(kind, inside, partial(self._list, kind), title, everywhere))
                inside = f"{API}/projects/{{project}}/{kind.plural}"
            routes.append(_list_route(kind, inside, partial(self._list, kind), title, listing))
            one = f"{inside}/{{name}}"
            name = kind.name
            routes += [
                Route("POST", inside, partial(self._create, kind), f"Create: {name}", name, 201, name, kind=kind),
                Route("GET", one, partial(self._get, kind), f"Read: {name}", name, kind=kind),
                Route("PUT", one, partial(self._put, kind), f"Create or change: {name}", name, body=name, kind=kind),
                Route(
                    "GET",
                    f"{one}/referrers",
                    partial(self._referrers, kind),
                    f"What refers to it: {name}",
                    wire.KeyNameList,
                    kind=kind,
                ),
                Route("DELETE", one, partial(self._delete, kind), f"Delete: {name}", wire.OutcomeBody, 202, kind=kind),
            ]
        return routes

    # --- resources -------------------------------------------------------------------------------------------------

    async def _list(self, kind: Kind, call: Call, names: dict[str, str]) -> None:
        known = {**_LABEL, **_PAGING}
        if kind.scope is Scope.PROJECT and "project" not in names:
            known["project"] = ""
        query = call.query(*known)
        limit = translate.number(query, "limit", translate.LIMIT_DEFAULT, translate.LIMIT_MAX, minimum=1)
        wanted, after = translate.labels(query), translate.after(query)
        mine = call.principal.project
        if kind.name == "Project" and mine is not None:
            found = await self._rooms.store.find(Key("Project", "", mine))
            await call.answer_json(200, translate.page([found] if found else [], limit + 1))
            return
        project = names.get("project") or translate.single(query, "project") or None
        if project is not None:
            translate.own_project(call.principal, project)
        elif kind.scope is Scope.PROJECT:
            project = mine
        found_all = await self._rooms.store.list(kind.name, project=project, labels=wanted, limit=limit, after=after)
        await call.answer_json(200, translate.page(found_all, limit))

    async def _get(self, kind: Kind, call: Call, names: dict[str, str]) -> None:
        resource = await self._rooms.store.get(self._key(kind, call, names))
        await call.answer_json(200, resource.as_dict())

    async def _referrers(self, kind: Kind, call: Call, names: dict[str, str]) -> None:
        key = self._key(kind, call, names)
        await self._rooms.store.get(key)
        referrers = await self._rooms.store.referrers(key)
        mine = call.principal.project
        items = [translate.key_name(key) for key in referrers if mine is None or key.project == mine]
        await call.answer_json(200, {"items": items})

    async def _put(self, kind: Kind, call: Call, names: dict[str, str]) -> None:
        key = self._key(kind, call, names)
        given = await _manifests(call)
        wanted = translate.manifest(given, kind, key.project, key.name)
        outcome = (await self._rooms.admission.apply(call.principal, [wanted]))[0]
        await self._seen([outcome])
        resource = await self._rooms.store.get(outcome.key)
        await call.answer_json(201 if outcome.action == "created" else 200, resource.as_dict())

    async def _create(self, kind: Kind, call: Call, names: dict[str, str]) -> None:
        project = translate.own_project(call.principal, names["project"]) if "project" in names else ""
        given = await _manifests(call)
        outcome = await self._rooms.admission.create(call.principal, translate.manifest(given, kind, project, None))
        await self._seen([outcome])
        resource = await self._rooms.store.get(outcome.key)
        await call.answer_json(201, resource.as_dict())

    async def _delete(self, kind: Kind, call: Call, names: dict[str, str]) -> None:
        outcome = await self._rooms.admission.delete(call.principal, self._key(kind, call, names))
        await self._seen([outcome])
        await call.answer_json(202, outcome.as_dict())

    async def _seen(self, outcomes: Sequence[Outcome]) -> None:
        """Wait until the snapshot shows what was admitted, so that the caller's next call finds it; not for long."""
        unseen = list(outcomes)
        deadline = monotonic() + SNAPSHOT_SECONDS_MAX
        while unseen and monotonic() < deadline:
            unseen = [outcome for outcome in unseen if not self._shown(outcome)]
            if unseen:
                await asyncio.sleep(0.005)

    def _shown(self, outcome: Outcome) -> bool:
        resource = self._rooms.snapshot.find(outcome.key)
        if outcome.action == "deleting":
            return resource is None or resource.deleting
        return resource is not None and resource.metadata.generation >= outcome.generation

    def _key(self, kind: Kind, call: Call, names: dict[str, str]) -> Key:
        key = translate.key(kind, names)
        if kind.scope is Scope.PROJECT or kind.name == "Project":
            translate.own_project(call.principal, key.project or key.name)
        return key

    async def _apply(self, call: Call, names: dict[str, str]) -> None:
        del names
        dry_run = translate.flag(call.query("dry_run"), "dry_run")
        manifests = await _manifests(call)
        outcomes = await self._rooms.admission.apply(call.principal, manifests, dry_run=dry_run)
        if not dry_run:
            await self._seen(outcomes)
        await call.answer_json(200, {"results": [outcome.as_dict() for outcome in outcomes]})

    # --- the region ------------------------------------------------------------------------------------------------

    async def _openapi(self, call: Call, names: dict[str, str]) -> None:
        del names
        await call.answer_json(200, self._document)

    async def _kinds(self, call: Call, names: dict[str, str]) -> None:
        del names
        await call.answer_json(200, {"items": [translate.kind(kind) for kind in self._rooms.kinds]})

    async def _status(self, call: Call, names: dict[str, str]) -> None:
        del names
        await call.answer_json(200, await self._rooms.status(call.principal))

    async def _events(self, call: Call, names: dict[str, str]) -> None:
        del names
        query = call.query("project", "kind", "name", "after", "limit")
        project = translate.single(query, "project") or call.principal.project
        if project is not None:
            translate.own_project(call.principal, project)
        key = translate.event_key(query, self._rooms.kinds, project)
        events = await self._rooms.store.events(
            key=key,
            project=None if key else project,
            after=translate.number(query, "after", 0, 2**63 - 1),
            limit=translate.number(query, "limit", translate.LIMIT_DEFAULT, translate.LIMIT_MAX, minimum=1),
        )
        await call.answer_json(200, {"items": [event.as_dict() for event in events]})

    async def _catalogue(self, call: Call, names: dict[str, str]) -> None:
        del names
        pulled = {model.spec.catalogue for model in self._rooms.snapshot.list("Model") if model.status.ready}
        items = [translate.catalogue(name, spec, pulled=name in pulled) for name, spec in CATALOGUE.items()]
        await call.answer_json(200, {"items": items})

    async def _list_keys(self, call: Call, names: dict[str, str]) -> None:
        del names
        _whole_region(call.principal)
        project = translate.single(call.query("project"), "project") or None
        keys = await self._rooms.keys.list(project)
        await call.answer_json(200, {"items": [info.as_dict() for info in keys]})

    async def _create_key(self, call: Call, names: dict[str, str]) -> None:
        del names
        _whole_region(call.principal)
        wanted = translate.body(wire.KeyBody, await call.json(self._request_bytes_max))
        if wanted.project is not None:
            await self._rooms.store.get(Key("Project", "", wanted.project))
        info, secret = await self._rooms.keys.create(wanted.name, project=wanted.project, expires_at=wanted.expires_at)
        await call.answer_json(201, {**info.as_dict(), "key": secret})

    async def _revoke_key(self, call: Call, names: dict[str, str]) -> None:
        _whole_region(call.principal)
        await self._rooms.keys.revoke(names["id"])
        await call.answer_nothing()

    # --- inside a project ------------------------------------------------------------------------------------------

    async def _credentials(self, call: Call, names: dict[str, str]) -> None:
        project = translate.own_project(call.principal, names["project"])
        await call.answer_json(200, await self._rooms.objects.credentials(project))

    async def _list_objects(self, call: Call, names: dict[str, str]) -> None:
        project = translate.own_project(call.principal, names["project"])
        query = call.query("prefix", *_PAGING)
        limit = translate.number(query, "limit", translate.LIMIT_MAX, translate.LIMIT_MAX, minimum=1)
        after = translate.single(query, "after")
        items: list[Any] = []
        async for info in self._rooms.objects.list(project, names["bucket"], translate.single(query, "prefix")):
            if info.key > after:
                items.append(info)
            if len(items) == limit:
                break
        await call.answer_json(200, {"items": items, "next": items[-1].key if len(items) == limit else ""})

    async def _put_object(self, call: Call, names: dict[str, str]) -> None:
        project = translate.own_project(call.principal, names["project"])
        content_type = translate.content_type(call.header(b"content-type"))
        async with self._transfers:
            content = await call.body(self._object_bytes_max, seconds_max=OBJECT_SECONDS_MAX)
            info = await self._rooms.objects.put(project, names["bucket"], names["key"], content, content_type)
        await call.answer_json(200, info)

    async def _get_object(self, call: Call, names: dict[str, str]) -> None:
        project = translate.own_project(call.principal, names["project"])
        async with self._transfers:
            content = await self._rooms.objects.get(project, names["bucket"], names["key"])
            await call.answer(200, content, b"application/octet-stream", [(b"content-disposition", b"attachment")])

    async def _delete_object(self, call: Call, names: dict[str, str]) -> None:
        project = translate.own_project(call.principal, names["project"])
        await self._rooms.objects.delete(project, names["bucket"], names["key"])
        await call.answer_nothing()

    async def _documents(self, call: Call, names: dict[str, str]) -> None:
        project = translate.own_project(call.principal, names["project"])
        documents = await self._rooms.retriever.documents(project, names["name"])
        await call.answer_json(200, {"items": documents})

    async def _search(self, call: Call, names: dict[str, str]) -> None:
        project = translate.own_project(call.principal, names["project"])
        wanted = translate.body(wire.SearchBody, await call.json(self._request_bytes_max))
        passages = await self._rooms.retriever.search(project, names["name"], wanted.query, limit=wanted.limit)
        await call.answer_json(200, {"items": passages})

    async def _ask(self, call: Call, names: dict[str, str]) -> None:
        project = translate.own_project(call.principal, names["project"])
        wanted = translate.body(wire.AskBody, await call.json(self._request_bytes_max))

        async def ask() -> None:
            answer = await self._rooms.answerer.ask(call.principal, project, names["name"], wanted.question)
            await call.answer_json(200, answer.as_dict())

        await call.while_connected(ask())


async def _manifests(call: Call) -> list[Manifest]:
    """The manifests of the body, read in a thread: a megabyte of YAML must not hold up other calls."""
    content = await call.body(manifest.SIZE_BYTES_MAX)
    return await asyncio.to_thread(manifest.parse, content, where="body")


def _list_route(
    kind: Kind, path: str, handle: Callable[[Call, dict[str, str]], Awaitable[None]], title: str, query: dict[str, str]
) -> Route:
    return Route("GET", path, handle, title, f"{kind.name}List", query=query, kind=kind)


def _pattern(template: str) -> re.Pattern[str]:
    """``{name}`` matches one segment, ``{name:path}`` everything that is left."""
    pattern = re.sub(r"\\{(\w+):path\\}", r"(?P<\1>.+)", re.escape(template).replace(r"\:", ":"))
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", pattern), re.DOTALL)


def _whole_region(principal: Principal) -> None:
    if principal.project is not None:
        raise Denied("a project's key cannot manage keys", hint="use a key of the whole region")
