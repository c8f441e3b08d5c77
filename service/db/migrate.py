"""Brings a database to the tables this code expects.

The migrations lie beside the `service` package, in a clone and in site-packages alike.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

FOLDER = Path(__file__).resolve().parents[2] / "migrations"


def upgrade(url: str, revision: str = "head") -> None:
    """Applies every migration that is missing; several processes at once take turns."""
    command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Takes migrations back, to `revision`; "base" drops every table."""
    command.downgrade(_config(url), revision)


def check(url: str) -> None:
    """Raises alembic's CommandError where the tables in code and migrations differ."""
    command.check(_config(url))


def is_current(engine: Engine) -> bool:
    """Whether the database has every migration this code knows, and no other."""
    script = ScriptDirectory(str(FOLDER))
    with engine.connect() as connection:
        applied = set(MigrationContext.configure(connection).get_current_heads())
    return applied == set(script.get_heads())


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["url"] = url
    return config
