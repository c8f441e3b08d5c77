"""The description at /openapi.json, with what FastAPI cannot see: bodies are read by ourselves.

docs/openapi.json is this document, checked in: `python -m service.api > docs/openapi.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from service.api.described import COMPONENTS, header
from service.api.problems import EXAMPLE_ID, MEDIA_TYPE, Problem
from service.api.request_ids import HEADER
from service.domain.request import SearchRequest

DESCRIPTION = """\
Finds which share of windows each block of a Swin transformer may skip, so that it runs within a
latency budget on your device, and proves it there. Submit with `POST /search`, poll the job, fetch
its config.

Every route but the health checks takes `Authorization: Bearer KEY`. Errors are
`application/problem+json`: look at `code`, read `detail`. A path that is no route answers 404
`NOT_FOUND`, another method than a route's 405 `METHOD_NOT_ALLOWED` with `Allow`. Unknown query
parameters and fields are refused, and so are those given twice.

Send an `X-Request-ID` of 1 to 64 letters, digits, dots, dashes and underscores and it comes back, else
one is made; the service's log names it.
"""

TAGS = [
    {"name": "search", "description": "Start a search, or ask what one could reach."},
    {"name": "jobs", "description": "Searches under way and over: poll, watch, cancel."},
    {"name": "results", "description": "What a search has found."},
    {"name": "workers", "description": "Who computes, and on what."},
    {"name": "health", "description": "How the service is, for those who run it."},
]

EXAMPLE = {
    "checkpoint": "/srv/data/swin-digits.safetensors",
    "dataset": {"path": "/srv/data/street-digits", "search_split": "val"},
    "latency_budget": "60%",
    "search": {"seed": 7},
}

_HEADERS = {HEADER: {"$ref": "#/components/headers/RequestId"}}
_EXAMPLES = "#/components/examples/"


def search_request_body() -> dict[str, Any]:
    """The description of POST /search's body."""
    schema = {"$ref": COMPONENTS.format(model=SearchRequest.__name__)}
    content = {"application/json": {"schema": schema, "example": EXAMPLE}}
    about = "What to search: checkpoint, data set and one budget are enough. At most 64 KiB."
    return {"required": True, "description": about, "content": content}


def operation_id(route: APIRoute) -> str:
    """What an operation is called in the description: as its function is."""
    return route.name


def install(app: FastAPI) -> None:
    """Makes `app.openapi` describe the request body and the problems as well."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # FastAPI's documented way


def as_file(document: dict[str, Any]) -> str:
    """The text of docs/openapi.json."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=TAGS,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in (SearchRequest, Problem):
        schema = model.model_json_schema(ref_template=COMPONENTS)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    components["headers"] = {"RequestId": header("Names the request in the log.", EXAMPLE_ID)}
    examples = components.setdefault("examples", {})
    for response in _responses(document):
        response["headers"] = response.get("headers", {}) | _HEADERS
        shown = response.get("content", {}).get(MEDIA_TYPE, {})
        # The same problems stand at many routes: once is enough.
        examples |= shown.get("examples", {})
        if shown:
            shown["examples"] = {code: {"$ref": _EXAMPLES + code} for code in shown["examples"]}
    return document


def _responses(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for operations in document["paths"].values():
        for operation in operations.values():
            yield from operation["responses"].values()
