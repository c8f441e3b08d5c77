"""Pieces of the API's description: problems with their examples, headers, downloads.

`problems` is given error classes, so that a route names each error that it may answer with.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Header, Path

from service.api.problems import EXAMPLE_ID, MEDIA_TYPE, Problem, problem_object, status_of
from service.domain.errors import (
    ArtifactNotFound,
    BudgetUnreachable,
    DatabaseUnavailable,
    FieldError,
    PathNotAllowed,
    ServiceError,
    Unauthenticated,
    UrlNotAllowed,
    ValidationFailed,
)

Responses = dict[int | str, dict[str, Any]]
Headers = dict[str, dict[str, Any]]

COMPONENTS = "#/components/schemas/{model}"
JOB_ID = "job_0198c5d2a7f07cc1a6a1f1d0c2b3e4f5"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def header(description: str, example: str, schema: str = "string") -> dict[str, Any]:
    """The description of a response's header."""
    return {"description": description, "schema": {"type": schema}, "example": example}


RETRY_AFTER: Headers = {
    "Retry-After": header("Seconds after which to ask again.", "2", "integer"),
}
ETAG: Headers = {
    "ETag": header("Names this state: send it as `If-None-Match` next time.", f'"{SHA256}"')
}
DOWNLOAD: Headers = ETAG | {
    "Content-Disposition": header("A file's name.", f'attachment; filename="{JOB_ID}.json"')
}
LOCATION: Headers = {"Location": header("Where the job is.", f"/jobs/{JOB_ID}")}
REPLAYED: Headers = {
    "Idempotent-Replayed": header("`true`: the answer of an earlier request.", "true")
}
_CHALLENGE: Headers = {
    "WWW-Authenticate": header("How to authenticate.", 'Bearer realm="sparsevit"')
}
_POINTERS: dict[type[ServiceError], str] = {
    ValidationFailed: "/search/seed",
    PathNotAllowed: "/checkpoint",
    UrlNotAllowed: "/checkpoint",
    ArtifactNotFound: "/dataset/path",
    BudgetUnreachable: "/latency_budget_ms",
}
"""What the examples of problems with one field point at."""

_ALLOWED_TO_WAIT = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

UNCHANGED: Responses = {
    304: {"description": "Not changed since `If-None-Match`.", "headers": ETAG},
}
"""The `responses` entry of a route whose answers have an ETag."""

JobId = Annotated[
    str,
    Path(
        description="A job's id.",
        examples=[JOB_ID],
        # Told, not enforced: what is no id is answered like one that is nobody's, 404.
        json_schema_extra={"pattern": "^job_[0-9a-f]{32}$", "format": "job-id"},
    ),
]


async def conditional(
    _described: Annotated[
        str | None,
        Header(
            alias="If-None-Match",
            description="`ETag` of the answer you have: 304 where nothing has changed.",
            examples=[f'"{SHA256}"'],
        ),
    ] = None,
) -> None:
    """Dependency, for the API's description only; `responses.matches` reads the header itself."""


def problems(*errors: type[ServiceError]) -> Responses:
    """The `responses` entries of a route that may answer with `errors`, each with an example.

    Every route may besides answer 401, 422 (a parameter), 500 and 503.
    """
    every = (*errors, Unauthenticated, ValidationFailed, ServiceError, DatabaseUnavailable)
    by_status: dict[HTTPStatus, list[type[ServiceError]]] = {}
    for error in dict.fromkeys(every):
        by_status.setdefault(status_of(error), []).append(error)
    return {int(status): _problem(status, kinds) for status, kinds in sorted(by_status.items())}


def _problem(status: HTTPStatus, errors: Iterable[type[ServiceError]]) -> dict[str, Any]:
    # Given as content: FastAPI would call a `model` application/json.
    content = {
        "schema": {"$ref": COMPONENTS.format(model=Problem.__name__)},
        "examples": {error.code: _example(status, error) for error in errors},
    }
    told = {
        "description": "\n\n".join(f"`{error.code}`: {_about(error)}" for error in errors),
        "content": {MEDIA_TYPE: content},
    }
    headers = _CHALLENGE if status is HTTPStatus.UNAUTHORIZED else {}
    headers |= RETRY_AFTER if status in _ALLOWED_TO_WAIT else {}
    return {**told, "headers": headers} if headers else told


def _example(status: HTTPStatus, error: type[ServiceError]) -> dict[str, Any]:
    about = _about(error)
    pointer = _POINTERS.get(error)
    found = [] if pointer is None else [FieldError(pointer, error.code, about)]
    shown = problem_object(EXAMPLE_ID, status, error.code, about, found)
    return {"summary": about, "value": shown.model_dump()}


def _about(error: type[ServiceError]) -> str:
    """The first paragraph of the error's description."""
    assert error.__doc__ is not None
    return " ".join(error.__doc__.split("\n\n")[0].split())
