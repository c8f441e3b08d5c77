"""The cache of evaluations on a real Postgres: written once, read by key, bounded in age and size."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, text

from service.db.evaluation_cache import ENTRY_BYTES, EvaluationCacheRepository
from service.db.session import session_scope
from tests.service.conftest import add_job

DAYS, MEGABYTES = 30.0, 1024.0
STATES = ((12, 34), (16, 16), (16, 16))


def keys(count: int, first: int = 0) -> list[bytes]:
    return [number.to_bytes(32) for number in range(first, first + count)]


def add(engine: Engine, job_id: str, entries: dict[bytes, object]) -> None:
    with session_scope(engine) as session:
        EvaluationCacheRepository(session).add(job_id, entries)


def get(engine: Engine, wanted: list[bytes]) -> dict[bytes, object]:
    with session_scope(engine) as session:
        return EvaluationCacheRepository(session).get(wanted)


def prune(engine: Engine, days: float = DAYS, megabytes: float = MEGABYTES) -> int:
    with session_scope(engine) as session:
        return EvaluationCacheRepository(session).prune(days, megabytes)


def age(engine: Engine, wanted: list[bytes], days: float) -> None:
    statement = """
        UPDATE evaluation_cache SET created_at = created_at - make_interval(hours => :hours)
        WHERE key = ANY(:keys)
    """
    with session_scope(engine) as session:
        session.execute(text(statement), {"keys": wanted, "hours": round(days * 24)})


def test_what_is_added_is_found_and_the_first_stays(engine: Engine, job_id: str) -> None:
    one, other, third = keys(3)
    add(engine, job_id, {one: [[1, 2], [3]], other: {"hits": [0.5, None]}})
    add(engine, job_id, {other: "too late", third: 3})
    assert get(engine, [third, one, b"?" * 32]) == {one: [[1, 2], [3]], third: 3}
    assert get(engine, [other]) == {other: {"hits": [0.5, None]}}
    assert get(engine, []) == {}
    add(engine, job_id, {})


def test_an_entry_is_its_jobs_owners(engine: Engine) -> None:
    add(engine, add_job(engine, "bob"), dict.fromkeys(keys(2), 1))
    with session_scope(engine) as session:
        owners = session.scalars(text("SELECT owner FROM evaluation_cache")).all()
    assert owners == ["bob", "bob"]


def test_no_number_that_json_lacks_is_stored(engine: Engine, job_id: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        add(engine, job_id, {keys(1)[0]: float("nan")})


def test_old_entries_go(engine: Engine, job_id: str) -> None:
    add(engine, job_id, dict.fromkeys(keys(5), 1))
    age(engine, keys(2), days=31)
    assert prune(engine) == 2
    assert set(get(engine, keys(5))) == set(keys(3, first=2))
    assert prune(engine) == 0


def test_beyond_the_size_the_oldest_go(engine: Engine, job_id: str) -> None:
    states = "x" * 1000  # stored as they are: too short to be compressed
    for first in (0, 1000):
        add(engine, job_id, dict.fromkeys(keys(1000, first), states))
    age(engine, keys(1000), days=1)
    entry = (ENTRY_BYTES + 1000 + 10) / 2**20
    assert prune(engine, megabytes=3000 * entry) == 0
    removed = prune(engine, megabytes=1500 * entry)
    assert 490 < removed < 515
    left = get(engine, keys(2000))
    assert len(left) == 2000 - removed
    assert set(keys(1000, 1000)) <= set(left)


def test_the_size_of_an_entry_is_about_what_it_takes(engine: Engine, job_id: str) -> None:
    for first in range(0, 20_000, 500):
        add(engine, job_id, dict.fromkeys(keys(500, first), STATES))
    with session_scope(engine) as session:
        statement = "SELECT pg_total_relation_size('evaluation_cache') / 20000.0"
        size = float(session.scalar(text(statement)))
        states = session.scalar(text("SELECT pg_column_size(states) FROM evaluation_cache LIMIT 1"))
    assert 0.7 < size / (ENTRY_BYTES + states) < 1.3


def test_one_worker_prunes_at_a_time(engine: Engine, job_id: str) -> None:
    add(engine, job_id, dict.fromkeys(keys(3), 1))
    age(engine, keys(3), days=31)
    with session_scope(engine) as session:
        assert EvaluationCacheRepository(session).prune(DAYS, MEGABYTES) == 3
        assert prune(engine) == 0  # and does not wait for the first one


def test_the_same_entries_from_many_at_once(engine: Engine, job_id: str) -> None:
    orders = [keys(200), list(reversed(keys(200)))] * 2
    threads = [
        threading.Thread(target=add, args=(engine, job_id, dict.fromkeys(order, 1)))
        for order in orders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(get(engine, keys(200))) == 200
