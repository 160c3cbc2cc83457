"""The OpenAPI 3.1 document, made of the routes and the kinds' Pydantic models, so that it cannot drift from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from falaj.protocols.rest.wire import ErrorBody, Route, Schema
from falaj.region.resource import API_VERSION, DOTTED_NAME_PATTERN, NAME_PATTERN, Kind, KindTable, Metadata, Scope

_REF = "#/components/schemas/"
_ERRORS = {
    "400": "The request is wrong as written (Invalid)",
    "401": "No key, or one that does not count (Denied)",
    "403": "The key may not do this (Denied)",
    "404": "There is no such thing (NotFound)",
    "409": "It clashes with what exists (Conflict)",
    "413": "A limit was passed (LimitExceeded)",
    "500": "It will not work until something outside changes (Terminal)",
    "503": "It may work later; see Retry-After (Transient)",
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "Site": {"jurisdiction": "AE"},
    "Project": {"description": "Claims of the health plan"},
    "Bucket": {"versioning": True},
    "Model": {"catalogue": "qwen2.5-coder-0.5b-instruct"},
    "Endpoint": {"model": "qwen2.5-coder-0.5b-instruct", "replicas": 1},
    "KnowledgeBase": {"sources": [{"bucket": "policies", "prefix": "en/"}], "languages": ["ar", "en", "fr"]},
    "Agent": {"endpoint": "chat", "knowledge": ["policies"]},
}


def document(routes: Sequence[Route], kinds: KindTable, version: str) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = route.template.replace(":path}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Falaj",
            "version": version,
            "description": "Resources of a region. The OpenAI wire under /v1 is described by OpenAI's own reference.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key: flj_…"}},
            "schemas": _schemas(routes, kinds),
            "responses": {
                f"Error{status}": {
                    "description": text,
                    "content": {"application/json": {"schema": {"$ref": _REF + "ErrorBody"}}},
                }
                for status, text in _ERRORS.items()
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.kind.room if route.kind else "region"],
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {
            str(route.status): _success(route),
            **{status: {"$ref": f"#/components/responses/Error{status}"} for status in _ERRORS},
        },
    }
    if route.method == "PUT" and route.kind is not None:
        operation["responses"]["201"] = {**_success(route), "description": "Created"}
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _body_content(route.body)}
    return operation


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", route.template.removeprefix("/falaj/v1").replace(":path", ""))
    return "_".join([route.method.lower(), *words])


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    parameters = []
    for name in re.findall(r"{(\w+)(?::path)?}", route.template):
        schema: dict[str, Any] = {"type": "string"}
        if name in {"project", "bucket", "name"}:
            dotted = name == "name" and route.kind is not None and route.kind.dotted
            schema["pattern"] = DOTTED_NAME_PATTERN if dotted else NAME_PATTERN
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    return parameters


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    types: dict[str, dict[str, Any]] = {
        "limit": {"type": "integer", "minimum": 1},
        "dry_run": {"type": "boolean"},
        "label": {"type": "array", "items": {"type": "string"}},
    }
    return [
        {"name": name, "in": "query", "description": text, "schema": types.get(name, {"type": "string"})}
        for name, text in route.query.items()
    ]


def _success(route: Route) -> dict[str, Any]:
    if not route.answer:
        return {"description": "Done"}
    return {"description": route.summary, "content": _content(route.answer)}


def _content(schema: Schema) -> dict[str, Any]:
    if isinstance(schema, str) and "/" in schema:
        return {schema: {"schema": {"type": "object"} if schema == "application/json" else {}}}
    name = schema if isinstance(schema, str) else schema.__name__
    return {"application/json": {"schema": {"$ref": _REF + name}}}


def _body_content(schema: Schema) -> dict[str, Any]:
    """Manifests are taken as YAML and as JSON."""
    if schema == "application/yaml":
        example = "\n".join(
            [f"apiVersion: {API_VERSION}", "kind: Bucket", "metadata: {project: claims, name: policies}", "spec: {}"]
        )
        return {
            "application/yaml": {"schema": {"type": "string"}, "example": example},
            "application/json": {"schema": {"type": "object"}},
        }
    content = _content(schema)
    if isinstance(schema, str) and "application/json" in content:
        content["application/yaml"] = content["application/json"]
    return content


def _schemas(routes: Iterable[Route], kinds: KindTable) -> dict[str, Any]:
    models: set[type[BaseModel]] = {ErrorBody, Metadata}
    for route in routes:
        models |= {schema for schema in (route.answer, route.body) if isinstance(schema, type)}
    for kind in kinds:
        models |= {kind.spec, kind.status}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema([(model, "validation") for model in ordered], ref_template=_REF + "{model}")
    schemas: dict[str, Any] = definitions["$defs"]
    for kind in kinds:
        schemas[kind.name] = _resource(kind)
        schemas[f"{kind.name}List"] = {
            "type": "object",
            "required": ["items", "next"],
            "properties": {
                "items": {"type": "array", "items": {"$ref": _REF + kind.name}},
                "next": {"type": "string", "description": "the next call's 'after'; empty at the end"},
            },
        }
    return schemas


def _resource(kind: Kind) -> dict[str, Any]:
    project = {"project": "claims"} if kind.scope is Scope.PROJECT else {}
    return {
        "type": "object",
        "description": kind.spec.__doc__ or "",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind.name},
            "metadata": {"$ref": _REF + "Metadata"},
            "spec": {"$ref": _REF + kind.spec.__name__},
            "status": {"$ref": _REF + kind.status.__name__, "readOnly": True},
        },
        "examples": [
            {
                "apiVersion": API_VERSION,
                "kind": kind.name,
                "metadata": {**project, "name": "policies"},
                "spec": _EXAMPLES.get(kind.name, {}),
            }
        ],
    }
