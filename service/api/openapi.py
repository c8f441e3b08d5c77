"""The description at /openapi.json, with what FastAPI cannot see: bodies are read by ourselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.problems import Problem
from service.domain.request import SearchRequest

DESCRIPTION = """\
Finds which share of windows each block of a Swin transformer may skip, so that it runs within a
latency budget on your device, and proves it there. Submit with `POST /search`, poll the job, fetch
its config.

Every route but the health checks takes `Authorization: Bearer KEY`. Errors are
`application/problem+json`: look at `code`, read `detail`.
"""

EXAMPLE = {
    "checkpoint": "/data/models/swin-digits.safetensors",
    "dataset": {"path": "/data/street-digits", "search_split": "val"},
    "latency_budget": "60%",
    "search": {"seed": 7},
}

_COMPONENTS = "#/components/schemas/{model}"


def search_request_body() -> dict[str, Any]:
    """The description of POST /search's body."""
    schema = {"$ref": _COMPONENTS.format(model=SearchRequest.__name__)}
    content = {"application/json": {"schema": schema, "example": EXAMPLE}}
    return {"required": True, "content": content}


def install(app: FastAPI) -> None:
    """Makes `app.openapi` describe the request body and the problems as well."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # FastAPI's documented way


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in (SearchRequest, Problem):
        schema = model.model_json_schema(ref_template=_COMPONENTS)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return document
