"""Engines and sessions: one `session_scope` is one transaction, committed at its end; what a `read`
asks stands alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic_core import from_json
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

Found = TypeVar("Found")

CONNECT_SECONDS = 3
"""How long a connection may take before the database counts as away."""

READERS = 5
"""Connections an API process keeps for `read`."""


def make_engine(url: str, pool_size: int = 10) -> Engine:
    """An engine on psycopg 3; nothing is connected before the first session.

    Connections are tried before use, so a restarted Postgres costs no failed request.
    """
    return _engine(url, pool_size, pool_pre_ping=True)


def make_reader(url: str) -> Engine:
    """An engine for `read`, with connections of its own: to take others out of their transactions
    and back costs as much as it saves. JSON is parsed by the faster of two parsers at hand."""
    return _engine(url, READERS, isolation_level="AUTOCOMMIT", json_deserializer=from_json)


def _engine(url: str, pool_size: int, **options: Any) -> Engine:
    target = make_url(url).set(drivername="postgresql+psycopg")
    return create_engine(
        target,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=CONNECT_SECONDS,
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


def read(reader: Engine, ask: Callable[[Connection], Found]) -> Found:
    """What `ask` finds by statements that read, each by itself: no transaction is around them, whose
    begin and end are two more round trips. For what every request asks; `reader` is of `make_reader`.

    A connection is not tried before use, which were another one: where it turns out to be lost, since
    Postgres was restarted, `ask` is called again, with a new one.
    """
    try:
        with reader.connect() as connection:
            return ask(connection)
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    with reader.connect() as connection:
        return ask(connection)
