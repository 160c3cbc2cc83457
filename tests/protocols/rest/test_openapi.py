"""The document is OpenAPI 3.1 in structure, complete, and every route answers as it says."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from falaj.app import KINDS
from falaj.protocols.rest import wire
from falaj.protocols.rest.routes import Rest, Rooms
from falaj.protocols.rest.wire import Route
from tests.protocols.conftest import Wires, manifest

METHODS = {"get", "put", "post", "delete"}
SAMPLES = {"project": "claims", "bucket": "b", "name": "b", "key": "a/b.md", "id": "aaaaaaaaaaaa"}
BODIES: dict[Any, Any] = {
    wire.KeyBody: {"name": "ci"},
    wire.SearchBody: {"query": "what"},
    wire.AskBody: {"question": "what"},
    "application/yaml": b"apiVersion: falaj/v1\nkind: Bucket\nmetadata: {project: claims, name: c}\n",
    "application/octet-stream": b"text",
}


async def document(wires: Wires) -> dict[str, Any]:
    return (await wires.call("GET", "/openapi.json")).json()


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


async def test_it_has_what_the_standard_asks_for(wires: Wires) -> None:
    openapi = await document(wires)
    assert re.fullmatch(r"3\.1\.\d+", openapi["openapi"])
    assert openapi["info"]["title"]
    assert openapi["info"]["version"] == "0.1.0"
    assert openapi["security"] == [{"key": []}]
    assert openapi["components"]["securitySchemes"]["key"] == {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key: flj_…",
    }
    identifiers = []
    for path, item in openapi["paths"].items():
        assert path.startswith("/")
        assert set(item) <= METHODS
        for operation in item.values():
            identifiers.append(operation["operationId"])
            named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
            assert all(parameter["required"] for parameter in operation["parameters"] if parameter["in"] == "path")
            assert all("schema" in parameter for parameter in operation["parameters"])
            assert any(status.startswith("2") for status in operation["responses"])
            for response in operation["responses"].values():
                assert "$ref" in response or response["description"]
    assert len(identifiers) == len(set(identifiers))


async def test_every_reference_leads_somewhere(wires: Wires) -> None:
    openapi = await document(wires)
    references = {node["$ref"] for node in nodes(openapi) if "$ref" in node}
    assert len(references) > 20
    for reference in references:
        found: Any = openapi
        for part in reference.removeprefix("#/").split("/"):
            assert part in found, reference
            found = found[part]


async def test_every_kind_is_described_by_its_own_models_with_an_example(wires: Wires) -> None:
    schemas = (await document(wires))["components"]["schemas"]
    for kind in KINDS:
        described = schemas[kind.name]
        assert described["properties"]["kind"] == {"const": kind.name}
        spec = schemas[described["properties"]["spec"]["$ref"].rpartition("/")[2]]
        assert set(spec["properties"]) == set(kind.spec.model_fields)
        assert spec["additionalProperties"] is False
        for example in described["examples"]:
            kind.spec.model_validate(example["spec"])


async def test_every_example_is_admitted(wires: Wires) -> None:
    schemas = (await document(wires))["components"]["schemas"]
    names = {
        "Bucket": "policies",
        "Model": "qwen2.5-coder-0.5b-instruct",
        "Endpoint": "chat",
        "KnowledgeBase": "policies",
    }
    examples = [schemas[kind.name]["examples"][0] for kind in KINDS if kind.name not in {"Site", "Project"}]
    for example in examples:
        example["metadata"]["name"] = names.get(example["kind"], "guide")
    e5 = [
        manifest("Model", "e5", catalogue="multilingual-e5-small"),
        manifest("Endpoint", "e5", "system", model="e5"),
    ]
    answer = await wires.apply(*e5, *examples)
    assert answer.status == 200, answer.body


def routes() -> list[Route]:
    """The routes of the wire, without a region behind them."""
    rooms = Rooms(KINDS, *[None] * 8)  # type: ignore[arg-type]
    return Rest(rooms, request_bytes_max=1024, object_bytes_max=1024, version="0").routes


async def test_every_route_answers_as_the_document_says(wires: Wires) -> None:
    await wires.apply(manifest("Bucket", "b", "claims"))
    paths = (await document(wires))["paths"]
    for route in routes():
        path = re.sub(r"{(\w+)(?::path)?}", lambda part: SAMPLES[part[1]], route.template)
        body = BODIES.get(route.body) if not route.kind else {"metadata": {"name": "b"}} if route.body else None
        answer = await wires.call(route.method, path, body)
        described = paths[route.template.replace(":path}", "}")][route.method.lower()]
        assert str(answer.status) in described["responses"], (route.template, answer.body)
        check(route, answer.json() if answer.body else {}, failed=answer.status >= 400)
        assert (await wires.call(route.method, path, body, key="")).status == 401


def check(route: Route, content: dict[str, Any], *, failed: bool) -> None:
    """The answer is what the route says that it is."""
    if failed:
        wire.ErrorBody.model_validate(content)
    elif isinstance(route.answer, type) and issubclass(route.answer, BaseModel):
        route.answer.model_validate(content)
        assert set(content) <= set(route.answer.model_fields), route.template
    elif route.kind and route.answer == route.kind.name:
        assert set(content) == {"apiVersion", "kind", "metadata", "spec", "status"}
    elif route.kind:
        assert set(content) == {"items", "next"}
