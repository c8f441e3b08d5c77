"""Polls of one moment share a statement, and each is answered what it asked, as it stands by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, make_url, text

from service.api.polls import AT_ONCE, PollHub
from service.db.jobs import JobRepository
from service.db.keys import KeyRepository
from service.db.polls import Poll, Polled
from service.db.session import make_reader, session_scope
from service.domain.keys import key_digest
from tests.service.api_server import Api
from tests.service.conftest import add_job

WAITING = text(
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
    "AND datname = current_database()"
)
END_OTHERS = text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND datname = current_database() "
    "AND backend_type = 'client backend'"
)


@pytest.fixture
def reader(database_url: str, engine: Engine) -> Iterator[Engine]:
    reader = make_reader(database_url)
    yield reader
    reader.dispose()


@pytest.fixture
def asked_at_once(reader: Engine) -> list[int]:
    """How many polls each statement of the reader has answered so far."""
    counts: list[int] = []

    def count(_c: Any, _cursor: Any, _statement: str, parameters: Any, *_: Any) -> None:
        counts.append(len(parameters["digests"]))

    event.listen(reader, "before_cursor_execute", count)
    return counts


@pytest.fixture
def key(engine: Engine) -> str:
    """A key of ann's, who owns `job_id`."""
    return new_key(engine, "ann")


def new_key(engine: Engine, owner: str) -> str:
    with session_scope(engine) as session:
        return KeyRepository(session).create(owner, "test")


def poll(key: str, job_id: str | None) -> Poll:
    return Poll(key_digest(key), job_id)


def seen(polled: Polled) -> tuple[str | None, str | None]:
    return polled.owner, polled.job and polled.job.id


def waiting(engine: Engine) -> int:
    # In a transaction of its own: within one, Postgres tells the same each time.
    with session_scope(engine) as session:
        return int(session.execute(WAITING).scalar_one())


async def while_locked(
    engine: Engine, hub: PollHub, first: Poll, then: Callable[[], Coroutine[Any, Any, None]]
) -> Polled:
    """Runs `then` while the statement that answers `first` waits for a lock."""
    with engine.connect() as connection, connection.begin():
        connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        asking = asyncio.create_task(hub.ask(first))
        while not waiting(engine):
            await asyncio.sleep(0.01)
        await then()
    return await asking


def test_polls_that_come_meanwhile_share_the_next_statement(
    engine: Engine, reader: Engine, asked_at_once: list[int], key: str, job_id: str
) -> None:
    bobs_job, bobs_key = add_job(engine, "bob"), new_key(engine, "bob")
    table = [
        (poll(key, job_id), ("ann", job_id)),
        (poll(bobs_key, bobs_job), ("bob", bobs_job)),
        (poll(key, bobs_job), ("ann", None)),
        (poll("unknown", job_id), (None, None)),
        (poll(key, None), ("ann", None)),
        (poll(key, job_id), ("ann", job_id)),
    ]

    async def run() -> list[Polled]:
        hub = PollHub(reader)
        asking: list[asyncio.Task[Polled]] = []

        async def ask() -> None:
            asking.extend(asyncio.create_task(hub.ask(one)) for one, _ in table)
            await asyncio.sleep(0)

        first = await while_locked(engine, hub, poll(key, job_id), ask)
        assert seen(first) == ("ann", job_id)
        return await asyncio.gather(*asking)

    assert [seen(one) for one in asyncio.run(run())] == [expected for _, expected in table]
    assert asked_at_once == [1, len(table)]


def test_a_statement_answers_so_many_at_most(
    reader: Engine, asked_at_once: list[int], key: str, job_id: str
) -> None:
    async def run() -> list[Polled]:
        hub = PollHub(reader)
        return await asyncio.gather(*(hub.ask(poll(key, job_id)) for _ in range(2 * AT_ONCE + 1)))

    assert {seen(one) for one in asyncio.run(run())} == {("ann", job_id)}
    assert asked_at_once == [AT_ONCE, AT_ONCE, 1]


def test_an_answer_is_read_after_it_was_asked_for(
    engine: Engine, reader: Engine, key: str, job_id: str
) -> None:
    async def run() -> list[int]:
        hub, versions = PollHub(reader), []
        for expected in range(1, 20):
            polled = await hub.ask(poll(key, job_id))
            assert polled.job is not None
            versions.append((expected, polled.job.version))
            with session_scope(engine) as session:
                assert JobRepository(session).set_progress(job_id, {"done": expected})
        return versions

    assert all(expected == found for expected, found in asyncio.run(run()))


def test_whoever_goes_away_takes_nobody_along(
    engine: Engine, reader: Engine, key: str, job_id: str
) -> None:
    async def run() -> list[Any]:
        hub = PollHub(reader)
        asking: list[asyncio.Task[Polled]] = []

        async def leave() -> None:
            asking.extend(asyncio.create_task(hub.ask(poll(key, job_id))) for _ in range(3))
            await asyncio.sleep(0)
            asking[0].cancel()

        await while_locked(engine, hub, poll(key, job_id), leave)
        return await asyncio.gather(*asking, return_exceptions=True)

    gone, *others = asyncio.run(run())
    assert isinstance(gone, asyncio.CancelledError)
    assert [seen(one) for one in others] == [("ann", job_id)] * 2


def test_a_connection_that_was_lost_costs_no_poll(
    engine: Engine, reader: Engine, key: str, job_id: str
) -> None:
    async def run() -> None:
        hub = PollHub(reader)
        for _ in range(3):
            assert seen(await hub.ask(poll(key, job_id))) == ("ann", job_id)
            with session_scope(engine) as session:
                assert session.execute(END_OTHERS).scalar_one() > 0

    asyncio.run(run())


def test_where_the_database_is_away_every_poll_is_told(database_url: str, free_port: int) -> None:
    away = make_reader(make_url(database_url).set(port=free_port).render_as_string(False))

    async def run() -> list[Any]:
        hub = PollHub(away)
        for _ in range(2):
            found = await asyncio.gather(
                *(hub.ask(poll("key", None)) for _ in range(5)), return_exceptions=True
            )
        return found

    assert {type(error).__name__ for error in asyncio.run(run())} == {"OperationalError"}


def test_a_row_that_no_version_here_knows_fails_nobody_else(
    engine: Engine, reader: Engine, key: str, job_id: str
) -> None:
    odd = add_job(engine, "ann")
    with session_scope(engine) as session:
        session.execute(text("UPDATE jobs SET status = 'dreaming' WHERE id = :id"), {"id": odd})

    async def run() -> list[Polled]:
        hub = PollHub(reader)
        return await asyncio.gather(*(hub.ask(poll(key, one)) for one in (job_id, odd, job_id)))

    first, broken, last = asyncio.run(run())
    assert [seen(one) for one in (first, last)] == [("ann", job_id)] * 2
    with pytest.raises(ValueError, match="dreaming"):
        _ = broken.job


def test_one_failure_is_told_to_all_that_wait(database_url: str, free_port: int) -> None:
    """Or each batch would wait for the database in its turn."""
    away = make_reader(make_url(database_url).set(port=free_port).render_as_string(False))
    connections: list[object] = []
    event.listen(away, "do_connect", lambda *_: connections.append(_) or None)

    async def run() -> list[Any]:
        hub = PollHub(away)
        asking = (hub.ask(poll("key", None)) for _ in range(3 * AT_ONCE))
        return await asyncio.gather(*asking, return_exceptions=True)

    assert {type(error).__name__ for error in asyncio.run(run())} == {"OperationalError"}
    assert len(connections) <= 2


def test_many_clients_get_their_own_answers_and_a_revoked_key_none(api: Api) -> None:
    bobs_key = api.bob.headers["Authorization"].removeprefix("Bearer ")
    jobs = {owner: [add_job(api.engine, owner) for _ in range(4)] for owner in ("ann", "bob")}

    def ask(number: int) -> None:
        client, owner, other = (api.ann, "ann", "bob") if number % 2 else (api.bob, "bob", "ann")
        job_id = jobs[owner][number % 4]
        assert client.get(f"/jobs/{job_id}").json()["id"] == job_id
        assert client.get(f"/jobs/{jobs[other][number % 4]}").status_code == 404
        assert api.nobody.get(f"/jobs/{job_id}").status_code == 401

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(ask, range(60)))
    with session_scope(api.engine) as session:
        keys = KeyRepository(session)
        found = keys.find(bobs_key)
        assert found is not None
        keys.revoke(found.id)
    assert api.bob.get(f"/jobs/{jobs['bob'][0]}").status_code == 401
    assert api.ann.get(f"/jobs/{jobs['ann'][0]}").status_code == 200
