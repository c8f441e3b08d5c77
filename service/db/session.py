"""Engine and session: one `session_scope` is one transaction, committed at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

CONNECT_SECONDS = 3
"""How long a connection may take before the database counts as away."""


def make_engine(url: str, pool_size: int = 10) -> Engine:
    """An engine on psycopg 3; nothing is connected before the first session.

    Connections are tried before use, so a restarted Postgres costs no failed request.
    """
    target = make_url(url).set(drivername="postgresql+psycopg")
    return create_engine(
        target,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=CONNECT_SECONDS,
        pool_pre_ping=True,
        # Errors end in logs: these must not repeat what callers sent.
        hide_parameters=True,
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )


@contextmanager
def session_scope(engine: Engine) -> Iterator[Session]:
    """A session that commits when the block ends, and rolls back when it raises."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session
