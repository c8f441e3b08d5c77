"""Fixtures of the service's tests: an engine on real, emptied tables, and rows to start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import typer
from click.testing import Result
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from service.commands import progress, register
from service.db.jobs import JobRepository
from service.db.models import Base
from service.db.session import make_engine, session_scope
from service.db.units import UnitRepository
from service.domain.records import new_job_id
from tests.service.api_server import Api, running_api

Command = Callable[..., Result]
REQUEST = {"checkpoint": "builtin:digits", "dataset": "builtin:digits"}


@pytest.fixture(scope="module")
def module_engine(database_url: str) -> Iterator[Engine]:
    """One engine for a test module."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(module_engine: Engine) -> Engine:
    """The module's engine, every table empty."""
    tables = ", ".join(Base.metadata.tables)
    with session_scope(module_engine) as session:
        session.execute(text(f"TRUNCATE {tables}"))
    return module_engine


@pytest.fixture
def job_id(engine: Engine) -> str:
    """A queued job of 'ann'."""
    return add_job(engine)


def add_job(engine: Engine, owner: str = "ann") -> str:
    """Inserts a queued job and returns its id."""
    job_id = new_job_id()
    with session_scope(engine) as session:
        JobRepository(session).add(job_id, owner, REQUEST, None, None, None, {})
    return job_id


def unit_states(session: Session, job_id: str) -> dict[str, int]:
    """How many of a job's units stand in which state."""
    return dict(Counter(unit.state for unit in UnitRepository(session).for_job(job_id)))


@pytest.fixture(scope="module")
def module_api(
    database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """One API for a test module."""
    with running_api(database_url, redis_url, tmp_path_factory.mktemp("api")) as api:
        yield api


@pytest.fixture
def api(module_api: Api) -> Api:
    """The module's API, every table but the keys' empty."""
    module_api.empty()
    return module_api


@pytest.fixture
def run(api: Api, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command as ann."""
    monkeypatch.setenv("SPARSEVIT_URL", api.url)
    monkeypatch.setenv("SPARSEVIT_KEY", api.key)
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.05)
    app = typer.Typer()
    register(app)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))
