"""Leases on a real Postgres: who may write, and who may no longer."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.records import Job, Unit
from service.domain.status import JobStatus, Stage, UnitKind, UnitState
from sparsevit.search.choices import SETTLED_BY_INSPECTION
from tests.worker import rows
from tests.worker.conftest import NewJob
from worker.leases import Leases

MODEL, UUID = "Testium 3000", "CPU-1"
ERROR = {"code": "INTERNAL", "message": "it broke"}


@pytest.fixture
def leases(engine: Engine) -> Leases:
    return Leases(engine, "worker-1", lease_seconds=60, artifact_root="/artefacts")


def stored(engine: Engine, unit: Unit) -> Unit:
    with session_scope(engine) as session:
        found = UnitRepository(session).get(unit.id)
    assert found is not None
    return found


def job_row(engine: Engine, job: Job) -> Job:
    with session_scope(engine) as session:
        found = JobRepository(session).get(job.id)
    assert found is not None
    return found


def expire(engine: Engine) -> list[str]:
    with session_scope(engine) as session:
        return UnitRepository(session).expire()


def cancel(engine: Engine, job: Job) -> None:
    with session_scope(engine) as session:
        assert JobRepository(session).request_cancel(job.id)


def test_nothing_to_claim(leases: Leases) -> None:
    assert leases.claim(MODEL, UUID) is None


def test_the_first_claim_starts_the_job(engine: Engine, leases: Leases, new_job: NewJob) -> None:
    job = new_job()
    unit = leases.claim(MODEL, UUID)
    assert (unit.kind, unit.state, unit.attempt) == (UnitKind.INSPECT, UnitState.LEASED, 1)
    started = job_row(engine, job)
    assert (started.status, started.stage) == (JobStatus.RUNNING, Stage.INSPECT)
    assert started.started_at is not None
    assert leases.claim(MODEL, UUID) is None


def test_a_unit_for_another_device_is_left(leases: Leases, new_job: NewJob) -> None:
    new_job(device="Other 1")
    assert leases.claim(MODEL, UUID) is None
    assert leases.claim("Other 1", "CPU-2") is not None


def test_a_finished_unit_is_finished_once(engine: Engine, leases: Leases, new_job: NewJob) -> None:
    new_job()
    unit = leases.claim(MODEL, UUID)
    assert leases.heartbeat(unit) == "ok"
    assert leases.finish(unit, {"n": 1})
    assert not leases.finish(unit, {"n": 2})
    assert not leases.fail(unit, ERROR, retry=True)
    assert leases.heartbeat(unit) == "lost"
    assert stored(engine, unit).result == {"n": 1}


def test_a_lease_that_ran_out_is_another_workers(engine: Engine, new_job: NewJob) -> None:
    job = new_job()
    slow = Leases(engine, "slow", lease_seconds=0.2, artifact_root="")
    quick = Leases(engine, "quick", lease_seconds=60, artifact_root="")
    stale = slow.claim(MODEL, UUID)
    assert expire(engine) == []
    time.sleep(0.3)
    assert expire(engine) == [job.id]
    fresh = quick.claim(MODEL, UUID)
    assert (fresh.id, fresh.attempt, fresh.worker_id) == (stale.id, 2, "quick")
    # The slow one comes back: whatever it writes is refused.
    assert slow.heartbeat(stale) == "lost"
    assert not slow.finish(stale, {"n": "stale"})
    assert not slow.fail(stale, ERROR, retry=False)
    assert not slow.release(stale)
    assert not slow.cancel(stale)
    assert stored(engine, stale).state == UnitState.LEASED
    assert quick.finish(fresh, {"n": "fresh"})


def test_a_heartbeat_keeps_the_lease(engine: Engine, new_job: NewJob) -> None:
    new_job()
    leases = Leases(engine, "worker-1", lease_seconds=0.5, artifact_root="")
    unit = leases.claim(MODEL, UUID)
    for _ in range(4):
        time.sleep(0.2)
        assert leases.heartbeat(unit) == "ok"
        assert expire(engine) == []


def test_three_failures_are_final(engine: Engine, leases: Leases, new_job: NewJob) -> None:
    new_job()
    for attempt in (1, 2, 3):
        unit = leases.claim(MODEL, UUID)
        assert unit.attempt == attempt
        assert leases.fail(unit, ERROR, retry=True)
    assert leases.claim(MODEL, UUID) is None
    assert stored(engine, unit).state == UnitState.FAILED
    assert stored(engine, unit).error == ERROR


def test_a_failure_of_the_input_is_final_at_once(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    new_job()
    unit = leases.claim(MODEL, UUID)
    assert leases.fail(unit, ERROR, retry=False)
    assert stored(engine, unit).state == UnitState.FAILED


def test_a_released_unit_is_as_good_as_new(leases: Leases, new_job: NewJob) -> None:
    new_job()
    for _ in range(5):  # more often than a unit may fail
        unit = leases.claim(MODEL, UUID)
        assert leases.release(unit)
    assert leases.claim(MODEL, UUID).attempt == 6


def test_a_cancelled_job_says_so_at_the_heartbeat(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    job = new_job()
    unit = leases.claim(MODEL, UUID)
    cancel(engine, job)
    assert leases.heartbeat(unit) == "cancel"
    assert leases.cancel(unit)
    assert stored(engine, unit).state == UnitState.CANCELLED


def test_a_request_says_what_was_asked_for(leases: Leases, new_job: NewJob) -> None:
    new_job(score="late")
    request = leases.request(leases.claim(MODEL, UUID))
    assert request["kind"] == "inspect"
    assert request["payload"] == {"adapt": None, "finetune": None, "artifact_root": "/artefacts"}
    assert request["session"]["checkpoint"] == "builtin:digits"
    assert request["session"]["dataset"]["path"] == "builtin:digits"
    assert request["session"]["score"] == "late"
    assert request["session"]["files"] == {"checkpoint": None, "dataset": None}


def test_after_the_inspection_its_word_counts(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    job = new_job()
    unit = leases.claim(MODEL, UUID)
    with session_scope(engine) as session:
        JobRepository(session).set_inspection(job.id, rows.INSPECTION, MODEL, "c", "d")
    arguments = leases.request(replace(unit, kind=UnitKind.CALIBRATE))["session"]
    for name in SETTLED_BY_INSPECTION:
        assert arguments[name] == rows.INSPECTION[name]


def test_a_measurement_gets_the_map_and_the_store(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    job = new_job()
    unit = leases.claim(MODEL, UUID)
    document = rows.latency_map().to_dict()
    with session_scope(engine) as session:
        LatencyMapRepository(session).add(rows.MAP_KEY, MODEL, document, None)
        JobRepository(session).set_latency_map(job.id, rows.MAP_KEY)
    payload = leases.request(replace(unit, kind=UnitKind.MEASURE))["payload"]
    assert payload == {"latency_map": document, "artifact_root": "/artefacts"}
