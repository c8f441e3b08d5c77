"""Engines and sessions: one `session_scope` is one transaction, committed at its end; in a
`reading_scope` each statement stands alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

CONNECT_SECONDS = 3
"""How long a connection may take before the database counts as away."""


READERS = 5
"""Connections an API process keeps for `reading_scope`."""


def make_engine(url: str, pool_size: int = 10) -> Engine:
    """An engine on psycopg 3; nothing is connected before the first session.

    Connections are tried before use, so a restarted Postgres costs no failed request.
    """
    return _engine(url, pool_size)


def make_reader(url: str) -> Engine:
    """An engine for `reading_scope`, with connections of its own: to take others out of their
    transactions and back costs as much as it saves."""
    return _engine(url, READERS, isolation_level="AUTOCOMMIT")


def _engine(url: str, pool_size: int, **options: str) -> Engine:
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
        **options,
    )


@contextmanager
def session_scope(engine: Engine) -> Iterator[Session]:
    """A session that commits when the block ends, and rolls back when it raises."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading_scope(reader: Engine) -> Iterator[Session]:
    """A session for statements that read, each by itself: no transaction is around them, whose begin
    and end are two more round trips. For what every request asks; `reader` is of `make_reader`."""
    with Session(reader) as session:
        yield session
