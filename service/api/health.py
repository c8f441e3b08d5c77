"""GET /healthz: the process answers. GET /readyz: it can do its work."""

from __future__ import annotations

import logging
import os
import shutil
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from service.api.context import Context, context
from service.api.described import RETRY_AFTER
from service.api.plain import ApiObject
from service.db.migrate import is_current
from service.settings import Settings

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])

LEAST_FREE_BYTES = 100 * 1024 * 1024
REDIS_SECONDS = 1.0


class Health(ApiObject):
    """The process answers."""

    status: Literal["ok"] = Field(description="That it does.")


class Checks(ApiObject):
    """`ok`, or what is wrong."""

    database: str = Field(
        description="Whether Postgres answers, with the tables of this version.", examples=["ok"]
    )
    disk: str = Field(
        description="Whether the artefact folder can be written to.", examples=["full"]
    )
    redis: str = Field(description="Whether Redis answers.", examples=["away"])


class Readiness(ApiObject):
    """Whether the service can do its work."""

    status: Literal["ok", "degraded", "unavailable"] = Field(
        description="`degraded`: work starts later than it could; `unavailable`: it cannot."
    )
    checks: Checks = Field(description="What was looked at.")


@router.get(
    "/healthz",
    response_model=Health,
    responses={200: {"description": "It is."}},
    summary="Is the process alive?",
)
async def healthz() -> Response:
    """200 as long as the process answers; asks nothing else."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={
        200: {"description": "It can; `degraded`: while Redis is away, work starts later."},
        503: {
            "model": Readiness,
            "description": "A part it cannot do without is missing.",
            "headers": RETRY_AFTER,
        },
    },
    summary="Can the service work?",
)
def readyz(parts: Annotated[Context, Depends(context)]) -> Response:
    """200 "ok", 200 "degraded" while Redis is away (work starts later), 503 "unavailable"."""
    needed = {
        "database": _database(parts.engine),
        "disk": _disk(parts.settings),
    }
    checks = {**needed, "redis": redis_state(parts.settings.redis_url)}
    if set(needed.values()) != {"ok"}:
        status = "unavailable"
    else:
        status = "ok" if checks["redis"] == "ok" else "degraded"
    code = 503 if status == "unavailable" else 200
    headers = {"Retry-After": "5"} if code == 503 else {}
    return JSONResponse({"status": status, "checks": checks}, code, headers)


def _database(engine: Engine) -> str:
    try:
        return "ok" if is_current(engine) else "migrations are missing"
    except SQLAlchemyError as error:
        log.warning("the database is away (%s)", type(error).__name__)
        return "away"


def _disk(settings: Settings) -> str:
    """The artefact folder must be there and writable, with some space left."""
    root = settings.artifact_root
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            return "the artefact folder is not writable"
        free = shutil.disk_usage(root).free
    except OSError:
        return "the artefact folder cannot be used"
    return "ok" if free >= LEAST_FREE_BYTES else "full"


def redis_state(url: str) -> str:
    """Whether Redis answers: ok, or away."""
    client = Redis.from_url(
        url,
        socket_connect_timeout=REDIS_SECONDS,
        socket_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        client.ping()
    except (RedisError, OSError):
        return "away"
    finally:
        client.close()
    return "ok"
