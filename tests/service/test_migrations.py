"""Migrations on a real, empty Postgres: up, no drift, down, and two processes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy import inspect

from service.db.migrate import check, downgrade, is_current, upgrade
from service.db.models import Base
from service.db.session import make_engine

PROGRAM = "import sys; from service.db.migrate import upgrade; upgrade(sys.argv[1])"
ROOT = Path(__file__).parents[2]


def test_migrations_build_exactly_the_models_tables(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    try:
        assert not is_current(engine)
        upgrade(empty_database_url)
        assert is_current(engine)
        check(empty_database_url)
        downgrade(empty_database_url)
        assert not set(Base.metadata.tables) & set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_two_servers_that_start_together_migrate_once(empty_database_url: str) -> None:
    command = [sys.executable, "-c", PROGRAM, empty_database_url]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]
    check(empty_database_url)
