"""Heartbeat, finish, failure and expiry of a lease on a real Postgres."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import Engine, text

from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.status import MAX_ATTEMPTS, SHARD_ATTEMPTS, UnitKind, UnitState
from tests.service.conftest import unit_states
from tests.service.test_units import add, claim, get


def age_lease(engine: Engine, unit_id: int) -> None:
    """Puts a lease's end into the past."""
    with session_scope(engine) as session:
        session.execute(
            text("UPDATE units SET lease_until = now() - interval '1 s' WHERE id = :id"),
            {"id": unit_id},
        )


def expire(engine: Engine) -> list[str]:
    with session_scope(engine) as session:
        return UnitRepository(session).expire()


def test_a_heartbeat_prolongs_and_tells(engine: Engine, job_id: str) -> None:
    add(engine, job_id, UnitKind.EVALUATE, 0)
    unit = claim(engine, lease=1)
    assert unit is not None
    assert unit.lease_until is not None
    with session_scope(engine) as session:
        assert UnitRepository(session).heartbeat(unit.id, 1, 60) == "ok"
    later = get(engine, unit.id).lease_until
    assert later is not None
    assert later > unit.lease_until
    with session_scope(engine) as session:
        assert UnitRepository(session).heartbeat(unit.id, 2, 60) == "lost"
        JobRepository(session).request_cancel(job_id)
    with session_scope(engine) as session:
        assert UnitRepository(session).heartbeat(unit.id, 1, 60) == "cancel"
        assert UnitRepository(session).cancel(unit.id, 1)
        assert UnitRepository(session).heartbeat(unit.id, 1, 60) == "lost"


def test_a_lease_is_over_by_the_databases_clock(engine: Engine, job_id: str) -> None:
    add(engine, job_id, UnitKind.EVALUATE, 0)
    assert claim(engine, lease=0.2) is not None
    assert expire(engine) == []
    time.sleep(0.3)
    assert expire(engine) == [job_id]


def test_a_late_result_is_refused(engine: Engine, job_id: str) -> None:
    unit_id = add(engine, job_id, UnitKind.EVALUATE, 0)
    assert claim(engine, "slow") is not None
    age_lease(engine, unit_id)
    assert expire(engine) == [job_id]
    again = claim(engine, "fast")
    assert again is not None
    assert again.attempt == 2
    with session_scope(engine) as session:
        units = UnitRepository(session)
        assert not units.finish(unit_id, 1, {"from": "slow"})
        assert not units.fail(unit_id, 1, {"code": "X", "message": ""}, retry=True)
        assert not units.release(unit_id, 1)
        assert units.finish(unit_id, 2, {"from": "fast"})
        assert not units.finish(unit_id, 2, {"from": "twice"})
    done = get(engine, unit_id)
    assert (done.state, done.result, done.lease_until) == (UnitState.DONE, {"from": "fast"}, None)


GIVEN_UP = [
    pytest.param(UnitKind.MEASURE, -1, MAX_ATTEMPTS, UnitState.FAILED, id="any"),
    pytest.param(UnitKind.EVALUATE, -1, SHARD_ATTEMPTS, UnitState.BROKEN, id="a shard"),
    pytest.param(UnitKind.EVALUATE, 0, MAX_ATTEMPTS, UnitState.BROKEN, id="a part of one"),
    pytest.param(UnitKind.PROBE, 9, MAX_ATTEMPTS, UnitState.BROKEN, id="a probe"),
]


@pytest.mark.parametrize(("kind", "part", "attempts", "state"), GIVEN_UP)
def test_a_unit_that_is_lost_too_often_is_given_up(
    engine: Engine, job_id: str, kind: UnitKind, part: int, attempts: int, state: UnitState
) -> None:
    unit_id = add(engine, job_id, kind, 0, part=part)
    for attempt in range(1, attempts + 1):
        unit = claim(engine)
        assert unit is not None
        assert unit.attempt == attempt
        age_lease(engine, unit_id)
        assert expire(engine) == [job_id]
    unit = get(engine, unit_id)
    assert unit.state is state
    assert unit.error is not None
    assert unit.error["code"] == "WORKER_LOST"
    assert unit.finished_at is not None
    assert claim(engine) is None


@pytest.mark.parametrize(("kind", "part", "attempts", "state"), GIVEN_UP)
def test_a_failure_is_retried_until_attempts_are_spent(
    engine: Engine, job_id: str, kind: UnitKind, part: int, attempts: int, state: UnitState
) -> None:
    unit_id = add(engine, job_id, kind, 0, part=part)
    error = {"code": "DEVICE_OUT_OF_MEMORY", "message": "too large"}
    for _ in range(attempts):
        unit = claim(engine)
        assert unit is not None
        with session_scope(engine) as session:
            assert UnitRepository(session).fail(unit_id, unit.attempt, error, retry=True)
    failed = get(engine, unit_id)
    assert (failed.state, failed.error, failed.failures) == (state, error, attempts)
    assert failed.finished_at is not None


@pytest.mark.parametrize("kind", [UnitKind.EVALUATE, UnitKind.PROBE])
def test_what_the_input_is_to_blame_for_is_never_taken_apart(
    engine: Engine, job_id: str, kind: UnitKind
) -> None:
    unit_id = add(engine, job_id, kind, 0)
    assert claim(engine) is not None
    error = {"code": "DATASET_INVALID", "message": "no such file"}
    with session_scope(engine) as session:
        assert UnitRepository(session).fail(unit_id, 1, error, retry=False)
    assert get(engine, unit_id).state is UnitState.FAILED


def test_the_parts_of_a_shard_are_units_of_their_own(engine: Engine, job_id: str) -> None:
    ids = [add(engine, job_id, UnitKind.EVALUATE, 3, part=part) for part in (-1, 0, 1)]
    with session_scope(engine) as session:
        units = UnitRepository(session)
        assert units.add(job_id, UnitKind.EVALUATE, {}, 0, 3, 1) is None
        assert [(one.id, one.part) for one in units.for_job(job_id)] == [
            *zip(ids, (-1, 0, 1), strict=True)
        ]


def test_a_failure_without_retry_is_final(engine: Engine, job_id: str) -> None:
    unit_id = add(engine, job_id, UnitKind.INSPECT)
    assert claim(engine) is not None
    error = {"code": "CHECKPOINT_CORRUPT", "message": "not a checkpoint"}
    with session_scope(engine) as session:
        assert UnitRepository(session).fail(unit_id, 1, error, retry=False)
    assert get(engine, unit_id).state is UnitState.FAILED


def test_a_release_costs_no_attempt(engine: Engine, job_id: str) -> None:
    unit_id = add(engine, job_id, UnitKind.EVALUATE, 0)
    for attempt in range(1, MAX_ATTEMPTS + 3):
        unit = claim(engine)
        assert unit is not None
        assert unit.attempt == attempt
        with session_scope(engine) as session:
            assert UnitRepository(session).release(unit_id, attempt)
    unit = get(engine, unit_id)
    assert (unit.state, unit.failures, unit.worker_id) == (UnitState.PENDING, 0, None)


def test_an_expired_unit_of_a_cancelling_job_is_cancelled(engine: Engine, job_id: str) -> None:
    unit_id = add(engine, job_id, UnitKind.EVALUATE, 0)
    assert claim(engine) is not None
    with session_scope(engine) as session:
        JobRepository(session).request_cancel(job_id)
    age_lease(engine, unit_id)
    assert expire(engine) == [job_id]
    assert get(engine, unit_id).state is UnitState.CANCELLED


def test_pending_units_are_cancelled_and_leased_ones_stay(engine: Engine, job_id: str) -> None:
    for shard in range(3):
        add(engine, job_id, UnitKind.EVALUATE, shard)
    assert claim(engine) is not None
    with session_scope(engine) as session:
        assert UnitRepository(session).cancel_pending(job_id) == 2
        assert unit_states(session, job_id) == {"leased": 1, "cancelled": 2}
