"""Errors as application/problem+json (RFC 9457). No answer repeats what the caller sent.

The one place that knows which error is which HTTP status.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.request_ids import HEADER
from service.domain.errors import (
    BodyTooLarge,
    Conflict,
    DatabaseUnavailable,
    FieldError,
    Forbidden,
    IdempotencyKeyInFlight,
    IdempotencyKeyInvalid,
    LimitReached,
    MalformedJson,
    NotFound,
    RequestError,
    ServiceError,
    Unauthenticated,
    UnsupportedMediaType,
    ValidationFailed,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
LIMIT_RETRY_SECONDS = 60
TYPE_PREFIX = "urn:sparsevit:problem:"
INSTANCE_PREFIX = "urn:sparsevit:request:"
EXAMPLE_ID = "3f0c2a6d9b8e4a57b1f2d6e08c7a9153"

# The first class that fits decides, so special ones come before what they derive from.
_STATUS: tuple[tuple[type[ServiceError], HTTPStatus], ...] = (
    (MalformedJson, HTTPStatus.BAD_REQUEST),
    (IdempotencyKeyInvalid, HTTPStatus.BAD_REQUEST),
    (BodyTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnsupportedMediaType, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (RequestError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (LimitReached, HTTPStatus.TOO_MANY_REQUESTS),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (DatabaseUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)

_ROUTER = {
    404: ("NOT_FOUND", "no such route; the routes are listed at /openapi.json"),
    405: ("METHOD_NOT_ALLOWED", "the route exists, but not with this method; see Allow"),
}


class ProblemField(BaseModel):
    """One finding about one field."""

    pointer: str = Field(
        description='JSON pointer into the request; "" is all of it. Of parameters and headers "/" '
        "and the name.",
        examples=["/search/seed"],
    )
    code: str = Field(description="What is wrong with it.", examples=["less_than_equal"])
    message: str = Field(
        description="The same in words.",
        examples=["Input should be less than or equal to 9223372036854775807"],
    )


class Problem(BaseModel):
    """Every error answer (application/problem+json, RFC 9457). None repeats what was sent."""

    type: str = Field(
        description="The code as a URN.", examples=[f"{TYPE_PREFIX}validation-failed"]
    )
    title: str = Field(description="The status in words.", examples=["Unprocessable Entity"])
    status: int = Field(description="The status.", ge=400, le=599, examples=[422])
    detail: str = Field(
        description="What is wrong and what to do.",
        examples=["the request has fields that cannot be used; see errors"],
    )
    instance: str = Field(
        description="The request, as a URN.", examples=[f"{INSTANCE_PREFIX}{EXAMPLE_ID}"]
    )
    code: str = Field(
        description="Stable; what programs should look at.", examples=["VALIDATION_FAILED"]
    )
    errors: list[ProblemField] = Field(description="One entry per field that is refused.")
    request_id: str = Field(
        description="The request's X-Request-ID; the service's log names it.",
        examples=[EXAMPLE_ID],
    )


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error answer."""
    request_id = getattr(request.state, "request_id", "")
    content = problem_object(request_id, status, code, detail, errors)
    body = json.dumps(content.model_dump()).encode()
    return Response(body, status, {HEADER: request_id, **(headers or {})}, MEDIA_TYPE)


def problem_object(
    request_id: str, status: int, code: str, detail: str, errors: Sequence[FieldError] = ()
) -> Problem:
    """What an error answer says."""
    return Problem(
        type=TYPE_PREFIX + code.lower().replace("_", "-"),
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        # The path would repeat what the caller sent; the id finds the request in the log.
        instance=f"{INSTANCE_PREFIX}{request_id}",
        code=code,
        errors=[
            ProblemField(pointer=error.pointer, code=error.code, message=error.message)
            for error in errors
        ],
        request_id=request_id,
    )


def status_of(kind: type[ServiceError]) -> HTTPStatus:
    """The status that an error is answered with; 500 where no caller should see it."""
    found = (status for error, status in _STATUS if issubclass(kind, error))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)


def install(app: FastAPI) -> None:
    """Makes every error of the application a problem."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _router_error)
    app.add_exception_handler(RequestValidationError, _parameter_error)
    app.add_exception_handler(DBAPIError, _database_error)
    app.add_exception_handler(PoolTimeout, _database_error)
    app.add_exception_handler(Exception, _unexpected)


def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    status = status_of(type(error))
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return _unexpected(request, error)
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="sparsevit"'
    if isinstance(error, IdempotencyKeyInFlight):
        headers["Retry-After"] = "1"
    if isinstance(error, LimitReached):
        headers["Retry-After"] = str(LIMIT_RETRY_SECONDS)
    if isinstance(error, DatabaseUnavailable):
        headers["Retry-After"] = str(RETRY_SECONDS)
    if isinstance(error, BodyTooLarge | MalformedJson | UnsupportedMediaType):
        # The rest of the body was not read: this connection is of no further use.
        headers["Connection"] = "close"
    errors = error.errors if isinstance(error, RequestError) else ()
    return problem(request, status, error.code, error.message, errors, headers)


def _router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    default = (HTTPStatus(error.status_code).name, HTTPStatus(error.status_code).phrase)
    code, detail = _ROUTER.get(error.status_code, default)
    return problem(request, error.status_code, code, detail, headers=error.headers)


def _parameter_error(request: Request, error: Exception) -> Response:
    """A path or query parameter FastAPI refused; its own answer would repeat the input."""
    assert isinstance(error, RequestValidationError)
    found = [
        FieldError(
            f"/{detail['loc'][-1]}",
            str(detail["type"]),
            str(detail["msg"]).removeprefix("Value error, "),
        )
        for detail in error.errors()
    ]
    refused = ValidationFailed("the request has parameters that cannot be used; see errors", found)
    return _service_error(request, refused)


def _database_error(request: Request, error: Exception) -> Response:
    """503 where Postgres is away; any other database error is a fault of ours."""
    away = isinstance(error, OperationalError | InterfaceError | PoolTimeout) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )
    if not away:
        return _unexpected(request, error)
    log.warning("the database is away (%s)", type(error).__name__)
    return _service_error(request, DatabaseUnavailable("the database does not answer; try again"))


def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette calls this outside of our middleware: the id is not in what the line is about.
    about = {"request_id": getattr(request.state, "request_id", "")}
    log.error("the request failed", exc_info=error, extra=about)
    return problem(
        request,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        ServiceError.code,
        "the service failed on this request; its log names the request_id",
    )
