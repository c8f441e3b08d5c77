"""Servers for the tests: a real Postgres and a real Redis, started once for a whole run.

Where DATABASE_URL or REDIS_URL is set, that server is used instead, with care: each test module
gets a database of its own that is dropped afterwards, and Redis' database number 15 (14 and so on
for further processes of one run).
Imports of the service stay inside the fixtures: the library's tests run without its packages.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy import URL

    from service.embedded.postgres import EmbeddedPostgres
    from service.embedded.redis import EmbeddedRedis

# pytest-xdist names its processes gw0, gw1 and so on.
TEST_REDIS_DATABASE = 15 - int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole-grid",
        action="store_true",
        help="Dense parity with transformers for the published networks at every size and batch.",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests have counted with record_property(name, number), added up."""
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                counts.update(
                    {name: value for name, value in report.user_properties if type(value) is int}
                )
    for name, count in sorted(counts.items()):
        terminalreporter.write_line(f"{name}: {count}")


@pytest.fixture(scope="session")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder the servers' account can reach, removed after the run."""
    from service.embedded.accounts import temporary_home

    with temporary_home(tmp_path_factory.mktemp("servers")) as home:
        yield home


@pytest.fixture(scope="session")
def postgres(server_home: Path) -> Iterator[EmbeddedPostgres]:
    """The run's Postgres. Tests that stop or kill a server start one of their own."""
    from service.embedded.postgres import EmbeddedPostgres

    with EmbeddedPostgres(server_home / "postgres", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def redis(server_home: Path) -> Iterator[EmbeddedRedis]:
    """The run's Redis."""
    from service.embedded.redis import EmbeddedRedis

    with EmbeddedRedis(server_home / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> URL:
    """The maintenance database of the run's Postgres, or of the one given."""
    from sqlalchemy import make_url

    given = os.environ.get("DATABASE_URL")
    url = make_url(given or request.getfixturevalue("postgres").url())
    return url.set(drivername="postgresql+psycopg")


@pytest.fixture(scope="module")
def empty_database_url(server_url: URL) -> Iterator[str]:
    """The URL of a new, empty database; dropped after the module."""
    from sqlalchemy import create_engine, text

    name = f"test_{uuid.uuid4().hex}"
    admin = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server_url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="module")
def database_url(empty_database_url: str) -> str:
    """The URL of a new database with every migration applied; one per test module."""
    from service.db.migrate import upgrade

    upgrade(empty_database_url)
    return empty_database_url


@pytest.fixture(scope="module")
def redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of an emptied Redis database; one per test module."""
    from redis import Redis

    given = os.environ.get("REDIS_URL")
    url = (
        f"{given.rstrip('0123456789').rstrip('/')}/{TEST_REDIS_DATABASE}"
        if given
        else request.getfixturevalue("redis").url(TEST_REDIS_DATABASE)
    )
    with Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    from service.embedded.processes import free_port

    return free_port()
