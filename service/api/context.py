"""What handlers are given: the service's parts, and query parameters checked by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from celery import Celery
from sqlalchemy import Engine
from starlette.requests import Request

from service.api.polls import PollHub
from service.api.streams import EventHub
from service.db.artefacts import ArtefactStore
from service.domain.errors import FieldError, ValidationFailed
from service.jobs import JobService, SubmissionService
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one running service."""

    settings: Settings
    engine: Engine
    reader: Engine
    celery: Celery
    submissions: SubmissionService
    jobs: JobService
    artefacts: ArtefactStore
    events: EventHub
    polls: PollHub


# Dependencies that wait for nothing are coroutines: FastAPI hands each plain function to a thread.


async def context(request: Request) -> Context:
    """Dependency: the service's parts."""
    found = request.app.state.context
    assert isinstance(found, Context)
    return found


def only_query(*names: str) -> Callable[[Request], Awaitable[None]]:
    """Dependency: refuses query parameters other than `names`, and those given twice.

    A misspelt filter that is ignored would answer a question nobody asked.
    """
    known = ", ".join(names) or "none"

    async def check(request: Request) -> None:
        keys = [key for key, _ in request.query_params.multi_items()]
        if set(keys) <= set(names) and len(keys) == len(set(keys)):
            return
        message = f"unknown or repeated query parameter; this route knows: {known}"
        raise ValidationFailed(message, [FieldError("", "query", message)])

    return check
