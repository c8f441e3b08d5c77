"""The API as an application: `uvicorn --factory service.main:create_app --http
service.api.protocol:BoundedProtocol`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from service.api import events, health, jobs, metrics, openapi, problems, results, search, workers
from service.api.context import Context
from service.api.polls import PollHub
from service.api.request_ids import RequestIdMiddleware
from service.api.streams import EventHub
from service.db.artefacts import ArtefactStore
from service.db.session import make_engine, make_reader
from service.domain.logs import configure
from service.jobs import JobService, SubmissionService
from service.paths import PathResolver
from service.queue import make_celery
from service.settings import Settings, load_settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API. Connects to nothing before the first request.

    Without `settings` it is a process of its own: it reads the environment, and writes its log to
    standard error.

    Raises:
        SettingsError: `settings` is not given, and the environment lacks some.
    """
    if settings is None:
        settings = load_settings()
        configure(settings.log_level, settings.log_format)
        _take_over_uvicorns_lines()
    parts = _parts(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        parts.celery.close()
        parts.engine.dispose()
        parts.reader.dispose()

    app = FastAPI(
        title="SparseViT search",
        version=_version(),
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
    )
    app.state.context = parts
    app.add_middleware(RequestIdMiddleware)
    problems.install(app)
    openapi.install(app)
    for routes in (search, jobs, events, results, workers, health, metrics):
        app.include_router(routes.router)
    return app


def _parts(settings: Settings) -> Context:
    engine, reader = make_engine(settings.database_url), make_reader(settings.database_url)
    celery = make_celery(settings.redis_url)
    return Context(
        settings=settings,
        engine=engine,
        reader=reader,
        celery=celery,
        submissions=SubmissionService(
            engine, celery, PathResolver(settings.data_roots), settings.open_jobs
        ),
        jobs=JobService(engine, celery),
        artefacts=ArtefactStore(settings.artifact_root),
        events=EventHub(engine, settings.open_streams),
        polls=PollHub(reader),
    )


def _take_over_uvicorns_lines() -> None:
    """The server has set up a form of its own by the time it makes the application."""
    server = logging.getLogger("uvicorn")
    for logger in (server, logging.getLogger("uvicorn.error")):
        logger.handlers.clear()
        logger.propagate = True


def _version() -> str:
    try:
        return version("sparsevit")
    except PackageNotFoundError:
        # Run from a folder, not installed.
        return "0"
