"""Alembic runs this for every command: connects, takes a lock, and migrates in one transaction.

The URL comes from the caller (`service.db.migrate`), else from DATABASE_URL.
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import text

from service.db.models import Base
from service.db.session import make_engine

# Any number will do, as long as nothing else locks it: two starting servers take turns.
LOCK = 7_216_350_904


def run() -> None:
    """Migrates the database the caller names."""
    url = context.config.attributes.get("url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("DATABASE_URL is not set: name the Postgres database to migrate")
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            context.configure(
                connection=connection, target_metadata=Base.metadata, compare_server_default=True
            )
            with context.begin_transaction():
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                context.run_migrations()
    finally:
        engine.dispose()


if context.is_offline_mode():
    raise SystemExit("these migrations run against a database only: leave --sql away")
run()
