"""A measurement whose device was never quiet is put off: on a real Postgres, and in real workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from service.db.artefacts import ArtefactStore
from service.db.jobs import JobRepository
from service.db.receipts import ReceiptRepository
from service.db.session import session_scope
from service.db.tallies import TallyRepository
from service.db.units import UnitRepository
from service.domain.records import Job, Unit
from service.domain.status import JobStatus, UnitKind, UnitState
from tests.worker import rows
from tests.worker.conftest import Database, NewJob, WorkerProcess, wait_until
from worker import tasks
from worker.leases import Leases

MODEL = rows.DEVICE["model"]
WAIT = 0.5
BUSY = {"code": "DEVICE_DISTURBED", "message": "busy"}


@pytest.fixture
def leases(engine: Engine) -> Leases:
    return Leases(engine, "worker-1", 60, "/nowhere", again_seconds=(WAIT, 1000.0))


def advance(engine: Engine, job: Job) -> None:
    tasks.advance(engine, ArtefactStore(Path("/nowhere")), job.id)


def work(engine: Engine, leases: Leases, job: Job) -> Unit:
    """Runs a job's units until its measurement is held."""
    while (unit := leases.claim(MODEL, "CPU-1")) is not None:
        if unit.kind == UnitKind.MEASURE:
            return unit
        assert leases.finish(unit, rows.simulated_result(unit))
        advance(engine, job)
    raise AssertionError("no measurement")


def busy(unit: Unit, message: str = "busy") -> dict[str, Any]:
    return rows.disturbed(rows.simulated_result(unit), message)


def tally(engine: Engine, outcome: str) -> int:
    with session_scope(engine) as session:
        found = TallyRepository(session).all()
    return sum(one.count for one in found if (one.kind, one.outcome) == ("measure", outcome))


def claim_later(leases: Leases) -> Unit:
    found: list[Unit] = []
    wait_until(lambda: bool(found.append(leases.claim(MODEL, "CPU-1")) or found[-1]), 10)
    return found[-1]


def test_it_waits_then_is_tried_again_and_the_job_succeeds(
    engine: Engine, leases: Leases, database: Database, new_job: NewJob
) -> None:
    job = new_job()
    unit = work(engine, leases, job)
    began = time.monotonic()
    assert leases.finish(unit, busy(unit))
    assert not leases.finish(unit, busy(unit)), "its lease is gone"
    advance(engine, job)
    waiting = database.job(job)
    assert (waiting.status, waiting.error, waiting.front) == (JobStatus.RUNNING, None, None)
    (row,) = [one for one in database.units(job) if one.kind == UnitKind.MEASURE]
    assert (row.state, row.postponed, row.failures) == (UnitState.PENDING, 1, 0)
    assert waiting.progress["postponed"] == {"times": 1, "until": row.not_before.isoformat()}
    assert leases.claim(MODEL, "CPU-1") is None
    again = claim_later(leases)
    assert time.monotonic() - began >= WAIT
    assert (again.id, again.attempt) == (unit.id, 2)
    assert leases.finish(again, rows.simulated_result(again))
    advance(engine, job)
    database.check_complete(job)


def test_after_the_last_wait_the_job_fails_with_what_the_last_try_found(
    engine: Engine, database: Database, new_job: NewJob
) -> None:
    leases = Leases(engine, "worker-1", 60, "/nowhere", again_seconds=(0.05, 0.05))
    before = {outcome: tally(engine, outcome) for outcome in ("postponed", "disturbed")}
    job = new_job()
    unit = work(engine, leases, job)
    for attempt in (1, 2):
        assert leases.finish(unit, busy(unit, f"try {attempt}"))
        unit = claim_later(leases)
    last = busy(unit, "try 3")
    last["receipts"] = {"rcpt_last": last["receipts"]["rcpt_2"]}
    assert leases.finish(unit, last)
    advance(engine, job)
    ended = database.job(job)
    assert (ended.status, ended.error["code"]) == (JobStatus.FAILED, "DEVICE_DISTURBED")
    assert ended.error["message"] == "try 3"
    assert ended.front == last["front"]
    assert ended.progress["postponed"]["times"] == 2
    with session_scope(engine) as session:
        assert ReceiptRepository(session).get(job.id, "rcpt_last")
        assert not ReceiptRepository(session).get(job.id, "rcpt_2")
    assert tally(engine, "postponed") == before["postponed"] + 2
    assert tally(engine, "disturbed") == before["disturbed"] + 3


def test_meanwhile_the_device_is_the_other_jobs(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    unit = work(engine, leases, new_job())
    assert leases.finish(unit, busy(unit))
    other = new_job()
    mine = leases.claim(MODEL, "CPU-1")
    assert (mine.job_id, mine.kind) == (other.id, UnitKind.INSPECT)


def test_a_job_that_is_cancelled_meanwhile_ends_at_once(
    engine: Engine, leases: Leases, database: Database, new_job: NewJob
) -> None:
    job = new_job()
    unit = work(engine, leases, job)
    assert leases.finish(unit, busy(unit))
    with session_scope(engine) as session:  # as POST /jobs/{id}/cancel
        UnitRepository(session).cancel_pending(job.id)
        assert JobRepository(session).request_cancel(job.id)
    advance(engine, job)
    assert database.job(job).status == JobStatus.CANCELLED
    time.sleep(WAIT)
    assert leases.claim(MODEL, "CPU-1") is None


def test_a_stale_attempt_puts_nothing_off(
    engine: Engine, leases: Leases, database: Database, new_job: NewJob
) -> None:
    job = new_job()
    stale = work(engine, leases, job)
    assert leases.release(stale)
    fresh = leases.claim(MODEL, "CPU-1")
    assert not leases.finish(stale, busy(stale))
    assert database.job(job).progress["postponed"] is None
    assert leases.finish(fresh, rows.simulated_result(fresh))


def test_the_proof_after_fine_tuning_is_put_off_as_well_and_has_not_failed(
    engine: Engine, leases: Leases, database: Database, new_job: NewJob
) -> None:
    job = new_job()
    unit = work(engine, leases, job)
    assert leases.fail(unit, BUSY, retry=True)
    (row,) = [one for one in database.units(job) if one.kind == UnitKind.MEASURE]
    assert (row.state, row.postponed, row.failures) == (UnitState.PENDING, 1, 0)
    assert row.error == BUSY
    again = claim_later(leases)
    assert leases.fail(again, BUSY | {"code": "INTERNAL"}, retry=True)
    assert leases.claim(MODEL, "CPU-1").failures == 1, "any other failure is tried again at once"


def test_an_input_that_was_put_off_for_long_does_not_put_off_the_next_one(
    engine: Engine, leases: Leases, database: Database, new_job: NewJob
) -> None:
    unit = work(engine, leases, new_job())
    second = replace(unit, payload={**unit.payload, "before": {"error": BUSY}})
    assert leases.finish(second, busy(second))
    with session_scope(engine) as session:
        assert UnitRepository(session).get(unit.id).state == UnitState.DONE


@pytest.mark.parametrize(("tries", "status"), [("2", "succeeded"), ("9", "failed")])
def test_a_worker_tries_again_until_the_device_is_quiet_or_all_waits_are_over(
    database: Database, new_job: NewJob, start_worker: Callable[..., WorkerProcess], tries: str,
    status: str,
) -> None:  # fmt: skip
    job = new_job()
    start_worker("one", FAKE_DISTURBED=tries, MEASURE_AGAIN_SECONDS="0.2,0.4")
    ended = database.wait_for_end(job)
    assert ended.status == status
    assert ended.progress["postponed"]["times"] == 2
    (measure,) = [one for one in database.units(job) if one.kind == UnitKind.MEASURE]
    assert (measure.attempt, measure.postponed) == (3, 2)
    if ended.status == JobStatus.SUCCEEDED:
        database.check_complete(job)
    else:
        assert ended.error["message"] == "busy in attempt 3"
