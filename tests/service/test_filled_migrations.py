"""Migrations down and up again, one by one, on a database with rows in every table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from service.db.keys import KeyRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.migrate import FOLDER, check, downgrade, upgrade
from service.db.session import make_engine, session_scope
from service.db.workers import WorkerRepository
from tests.service.archive import fill

JOBS, EACH = 2000, 5
LASTING = ("units", "evaluations", "receipts")


def revisions() -> list[str]:
    """Oldest first."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    found = ScriptDirectory.from_config(config).walk_revisions()
    return [script.revision for script in found][::-1]


@pytest.fixture
def filled(empty_database_url: str) -> Iterator[Engine]:
    upgrade(empty_database_url)
    engine = make_engine(empty_database_url)
    fill(engine, JOBS, EACH, many=300)
    with session_scope(engine) as session:
        KeyRepository(session).create("ann", "test", admin=True)
        LatencyMapRepository(session).add("a" * 64, "Testium", {}, None)
        WorkerRepository(session).register("one", "Testium", "uuid", "cpu", "host", {})
        session.execute(
            text("UPDATE units SET postponed = 1, not_before = now() WHERE kind = 'measure'")
        )
    yield engine
    engine.dispose()


def statuses(engine: Engine) -> dict[str, int]:
    with session_scope(engine) as session:
        rows = session.execute(text("SELECT status, count(*) FROM jobs GROUP BY status"))
        return dict(rows.all())


def rows_of_ended_jobs(engine: Engine) -> dict[str, int]:
    with session_scope(engine) as session:
        return {
            table: session.scalar(
                text(
                    f"SELECT count(*) FROM {table} JOIN jobs ON jobs.id = job_id "
                    "WHERE status = 'succeeded'"
                )
            )
            or 0
            for table in LASTING
        }


def test_every_migration_goes_down_and_up_and_no_job_is_lost(
    filled: Engine, empty_database_url: str
) -> None:
    jobs, rows = statuses(filled), rows_of_ended_jobs(filled)
    assert sum(jobs.values()) == JOBS
    assert jobs["running"] == JOBS // 200
    steps = revisions()
    for older in steps[-2::-1]:
        downgrade(empty_database_url, older)
        assert statuses(filled) == jobs, older
        assert rows_of_ended_jobs(filled) == rows, older
    for newer in steps[1:]:
        upgrade(empty_database_url, newer)
        assert statuses(filled) == jobs, newer
        assert rows_of_ended_jobs(filled) == rows, newer
    check(empty_database_url)
    with session_scope(filled) as session:
        assert session.scalar(text("SELECT count(DISTINCT job_id) FROM job_events")) == JOBS
        assert len(KeyRepository(session).all()) == 1
