"""What must hold in the end, of the rows and of what clients were told: I1 to I5 of the design."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from service.db.evaluations import EvaluationRepository
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.tallies import TallyRepository
from service.db.units import UnitRepository
from service.domain.records import Job, Unit
from service.domain.status import (
    MAX_ATTEMPTS,
    TERMINAL,
    EvaluationState,
    JobStatus,
    UnitKind,
    UnitState,
)
from tests.soak.clients import Clients, Record
from tests.soak.stack import Stack
from tests.worker.rows import simulate
from tests.worker.world import World

SETTLE_SECONDS = 240.0
LOST_THRICE = ("WORKER_LOST", "DEVICE_PROCESS_DIED")
"""A unit whose worker or device was lost three times fails its job: that is a promise as well."""


@dataclass
class History:
    """What was checked, and what was wrong."""

    wrong: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    compared: int = 0
    attempts: Counter[str] = field(default_factory=Counter)

    def expect(self, true: bool, what: str) -> None:
        if not true:
            self.wrong.append(what)


class Undisturbed(World):
    """A job in memory, whose inspection answers as that of a device does."""

    def finish(self, unit: Unit, result: Mapping[str, Any] | None = None) -> None:
        if unit.kind == UnitKind.INSPECT:
            result = simulate(unit.kind, self.job.request)
        super().finish(unit, result)


def settle(engine: Engine, seconds: float = SETTLE_SECONDS) -> bool:
    """Wait until every job has ended. False: some have not, in that time."""
    deadline = time.monotonic() + seconds
    statement = text("SELECT count(*) FROM jobs WHERE status <> ALL(:over)")
    while time.monotonic() < deadline:
        with session_scope(engine) as session:
            if session.scalar(statement, {"over": sorted(TERMINAL)}) == 0:
                return True
        time.sleep(0.2)
    return False


def check(stack: Stack, clients: Clients) -> History:
    """Look through everything."""
    history = History()
    history.wrong += [f"an unexpected answer: {one}" for one in clients.unexpected]
    with session_scope(stack.engine) as session:
        _submissions(session, clients, history)
        for record in clients.records:
            job = JobRepository(session).get(record.job_id)
            if job is not None:
                _one_job(session, job, record, history)
        for tally in TallyRepository(session).all():
            if tally.name == "unit":
                history.attempts[tally.outcome] += tally.count
    _measurements(stack, history)
    return history


def _submissions(session: Session, clients: Clients, history: History) -> None:
    """I5: what was acknowledged is there, once, and nothing else is."""
    rows = session.execute(text("SELECT key, job_id FROM idempotency_keys"))
    stored = dict(rows.all())
    jobs = set(session.scalars(text("SELECT id FROM jobs")))
    for record in clients.records:
        if record.job_id not in jobs:
            history.lost += 1
        history.expect(
            stored.get(record.key) == record.job_id,
            f"I5: {record.key} stands for {stored.get(record.key)}, not for {record.job_id}",
        )
    history.duplicated += len(jobs) - len(stored)
    history.expect(set(stored) <= clients.keys, "I5: a key nobody sent")
    history.expect(set(stored.values()) == jobs, "I5: a job nobody submitted")
    history.expect(history.lost == 0, f"I5: {history.lost} jobs are lost")
    history.expect(history.duplicated == 0, f"I5: {history.duplicated} jobs are duplicated")


def _one_job(session: Session, job: Job, record: Record, history: History) -> None:
    history.statuses[job.status] += 1
    _ends_once(session, job, record, history)
    _counts(session, job, history)
    if job.status == JobStatus.SUCCEEDED:
        _undisturbed(session, job, history)
    if job.status == JobStatus.FAILED:
        error = job.error or {}
        units = UnitRepository(session).for_job(job.id)
        thrice = any(unit.failures >= MAX_ATTEMPTS for unit in units)
        history.expect(error.get("code") in LOST_THRICE and thrice, f"{job.id} failed: {error}")


def _ends_once(session: Session, job: Job, record: Record, history: History) -> None:
    """I1, as the rows and as a client saw it."""
    over = list(
        session.scalars(
            text(
                "SELECT data->>'status' FROM job_events WHERE job_id = :id "
                "AND data->>'status' = ANY(:over)"
            ),
            {"id": job.id, "over": sorted(TERMINAL)},
        )
    )
    history.expect(over == [job.status], f"I1: {job.id} is {job.status}, its events say {over}")
    live = {
        unit.state
        for unit in UnitRepository(session).for_job(job.id)
        if unit.state in (UnitState.PENDING, UnitState.LEASED)
    }
    history.expect(not live, f"I1: {job.id} is {job.status} and has units that are {live}")
    versions = [version for version, _ in record.seen]
    history.expect(versions == sorted(versions), f"I1: {job.id} went back: {record.seen}")
    told = [status for _, status in record.seen if status in TERMINAL]
    history.expect(set(told) <= {job.status}, f"I1: {job.id} was {told}, is {job.status}")
    if record.cancelled:
        history.expect(job.status == JobStatus.CANCELLED, f"I1: {job.id} cancelled, {job.status}")


def _counts(session: Session, job: Job, history: History) -> None:
    """I2: each config once, and counters that equal the rows."""
    rows = EvaluationRepository(session).for_job(job.id)
    history.duplicated += len(rows) - len({row.config_key for row in rows})
    states = Counter(row.state for row in rows)
    done = states[EvaluationState.DONE] + states[EvaluationState.DROPPED]
    told = (job.progress["done"], job.progress["failed"])
    history.expect(
        told == (done, states[EvaluationState.FAILED]),
        f"I2: {job.id} counts {told}, its rows are {dict(states)}",
    )


def _undisturbed(session: Session, job: Job, history: History) -> None:
    """I3: what the same request finds when nothing happens to it."""
    found = EvaluationRepository(session).for_job(job.id)
    if any(row.error and row.error["code"] in LOST_THRICE for row in found):
        return
    history.compared += 1
    world = Undisturbed(request=job.request)
    world.run()

    def facts(rows: Sequence) -> list[tuple]:
        return [(row.genes, row.state, row.metric) for row in rows]

    same = facts(found) == facts(world.evaluations)
    history.expect(same, f"I3: {job.id} has other evaluations than undisturbed")
    history.expect(job.result == world.job.result, f"I3: {job.id} has another result")
    history.expect(job.front == world.job.front, f"I3: {job.id} has another front")
    history.expect(job.weights == world.job.weights, f"I3: {job.id} has other weights")


def _measurements(stack: Stack, history: History) -> None:
    """I4: what devices noticed."""
    for file in stack.watch.glob("*.overlaps"):
        history.wrong += [f"I4: {line}" for line in file.read_text().splitlines()]
