"""What is remembered between steps: ended rows alone, which are not read again and change nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from service.db.artefacts import ArtefactStore
from service.db.session import session_scope
from service.domain.records import Evaluation, Job
from service.domain.status import EvaluationState, UnitKind, UnitState
from tests.worker import rows
from tests.worker.conftest import Database, NewJob
from tests.worker.rows import NOW
from worker.evaluation_log import EvaluationLog
from worker.leases import Leases
from worker.step_memory import MOST_JOBS, JobMemory, StepMemory
from worker.tasks import advance

STORE = ArtefactStore(Path("/nowhere"))
MODEL = rows.DEVICE["model"]


def proposed(count: int, resolutions: int = 2, each: int = 5) -> list[Evaluation]:
    """Pending evaluations in order, some generations at each input."""
    return [
        Evaluation(
            id=i + 1,
            job_id="job",
            config_key=f"[{i}]",
            resolution=i * resolutions // count,
            generation=i % (count // resolutions) // each,
            position=i % each,
            genes=[i],
            state=EvaluationState.PENDING,
            metric=None,
            metric_interval=None,
            images=None,
            latency_ms=100.0 - i,
            rival_id=None,
            error=None,
            created_at=NOW + timedelta(seconds=i),
            finished_at=None,
        )
        for i in range(count)
    ]


def ended(row: Evaluation, rng: random.Random) -> Evaluation:
    state = rng.choice([EvaluationState.DONE, EvaluationState.DROPPED, EvaluationState.FAILED])
    metric = None if state == EvaluationState.FAILED else rng.random()
    interval = [0.0, 1.0] if state == EvaluationState.DROPPED else None
    finished = NOW + timedelta(seconds=rng.randrange(1000))
    return replace(row, state=state, metric=metric, metric_interval=interval, finished_at=finished)


def facts(log: EvaluationLog) -> tuple[object, ...]:
    histories = [repr(log.history(resolution)[:]) for resolution in (0, 1)]
    return [*log], log.open, log.totals(), histories, [log.generations(one) for one in (0, 1)]


@pytest.mark.parametrize("seed", range(5))
def test_a_log_that_follows_says_what_one_of_all_rows_says(seed: int) -> None:
    rng = random.Random(seed)
    found, log = proposed(40), EvaluationLog()
    order = [*range(40)]
    rng.shuffle(order)
    for number in order:
        found[number] = ended(found[number], rng)
        known = log.last_settled
        log.follow([row for row in found if known is None or row.id > known.id])
        assert facts(log) == facts(EvaluationLog(rng.sample(found, len(found))))
    assert log.totals().ended == len(log) == 40
    assert log.open == []


def test_an_empty_log() -> None:
    log = EvaluationLog()
    assert (log.last_settled, log.open, len(log.history(0)), log.generations(0)) == (None, [], 0, 0)
    assert (log.totals().best, log.totals().ended) == (None, 0)


@pytest.fixture
def job(engine: Engine, new_job: NewJob) -> Job:
    """A job in its second generation, one unit of which is done."""
    job = new_job()
    leases = Leases(engine, "worker-1", lease_seconds=60, artifact_root=STORE.root)
    for _ in range(1 + 1 + 3 + 1):
        unit = leases.claim(MODEL, "CPU-1")
        assert unit is not None
        assert leases.finish(unit, rows.simulated_result(unit))
        advance(engine, STORE, job.id)
    return job


def test_what_has_ended_is_read_once(engine: Engine, database: Database, job: Job) -> None:
    memory = JobMemory(job.id)
    with session_scope(engine) as session:
        evaluations = [*memory.evaluations(session)]
        units = memory.units(session, database.job(job), 1, 0)
    assert [unit.state for unit in units].count(UnitState.DONE) == 1
    with session_scope(engine) as session:
        for table, change in (("evaluations", "metric = 0.123"), ("units", "result = '{}'")):
            session.execute(text(f"UPDATE {table} SET {change} WHERE state = 'done'"))
    with session_scope(engine) as session:
        assert [*memory.evaluations(session)] == evaluations
        assert str(memory.units(session, database.job(job), 1, 0)) == str(units)
        anew = JobMemory(job.id)
        assert {row.metric for row in [*anew.evaluations(session)][:6]} == {0.123}


def test_what_is_under_way_is_read_anew(engine: Engine, database: Database, job: Job) -> None:
    memory = JobMemory(job.id)
    with session_scope(engine) as session:
        memory.evaluations(session)
        memory.units(session, database.job(job), 1, 0)
        session.execute(text("UPDATE evaluations SET latency_ms = 7 WHERE state = 'pending'"))
        session.execute(text("UPDATE units SET state = 'leased' WHERE state = 'pending'"))
    with session_scope(engine) as session:
        assert {row.latency_ms for row in memory.evaluations(session).open} == {7}
        states = [unit.state for unit in memory.units(session, database.job(job), 1, 0)]
        assert set(states) == {UnitState.DONE, UnitState.LEASED}
        # Another generation: nothing of this one is among its units.
        first = memory.units(session, database.job(job), 0, 0)
    assert {(unit.kind, unit.generation) for unit in first} == {(UnitKind.EVALUATE, 0)}


def test_only_the_jobs_stepped_last_are_remembered() -> None:
    memory = StepMemory()
    first = memory.of("0")
    for number in range(1, MOST_JOBS):
        memory.of(str(number))
    assert memory.of("0") is first
    memory.of("another")
    assert memory.of("0") is first, "it was stepped after the one that had to go"
    memory.forget("0")
    assert memory.of("0") is not first
