"""The sweep looks after every job, whatever is wrong with one of them."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from service.db.session import session_scope
from service.db.units import UnitRepository
from tests.worker.conftest import NewJob
from worker.sweep import Sweep


def idle() -> None:
    """Nothing to let go."""


def due_jobs(engine: Engine, new_job: NewJob, count: int) -> list[str]:
    """Jobs whose first unit has ended, so that a step is due."""
    jobs = [new_job() for _ in range(count)]
    with session_scope(engine) as session:
        units = UnitRepository(session)
        while (unit := units.claim("w", "Testium", "uuid", 60)) is not None:
            units.finish(unit.id, unit.attempt, {})
    return [job.id for job in jobs]


@pytest.mark.parametrize(
    "error", [RuntimeError("a bad row"), OperationalError("", {}, Exception("deadlock"))]
)
def test_one_bad_job_stops_neither_the_others_nor_the_slot(
    engine: Engine, new_job: NewJob, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    bad, *others = due_jobs(engine, new_job, 3)
    seen: list[str] = []
    woken: list[bool] = []

    def advance(job_id: str) -> None:
        seen.append(job_id)
        if job_id == bad:
            raise error

    sweep = Sweep(engine, 1, "w", lambda: None, advance, lambda: woken.append(True), idle)
    sweep.once()
    assert seen == [bad, *others]
    assert woken == [True]
    assert bad in caplog.text


def test_the_slot_is_woken_although_the_rows_cannot_be_read(engine: Engine) -> None:
    woken: list[bool] = []

    def unit_id() -> int:
        raise RuntimeError("nobody knows")

    sweep = Sweep(engine, 1, "w", unit_id, lambda job_id: None, lambda: woken.append(True), idle)
    with pytest.raises(RuntimeError):
        sweep.once()
    assert woken == [True]
