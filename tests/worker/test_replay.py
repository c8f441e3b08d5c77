"""`sparsevit replay`: the stored log of a job is what its seed gives, or where it is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import typer
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from service.domain.errors import JobNotFound
from service.domain.records import Job, new_job_id
from service.domain.status import JobStatus, UnitKind, UnitState
from tests.worker.conftest import Database, NewJob, WorkerProcess, wait_until
from tests.worker.test_tasks import advance, leases, work  # noqa: F401  (leases: a fixture)
from worker.commands import register
from worker.leases import Leases
from worker.replay import replay_job

SEARCH = {"population": 6, "parents": 3, "generations": 3, "seed": 7}


@pytest.fixture
def finished(engine: Engine, leases: Leases, new_job: NewJob) -> Job:  # noqa: F811
    job = new_job()
    work(engine, leases)
    return job


def tamper(engine: Engine, job: Job, values: str, where: str) -> None:
    with engine.begin() as connection:
        statement = f"UPDATE evaluations SET {values} WHERE job_id = :job AND {where}"
        assert connection.execute(text(statement), {"job": job.id}).rowcount == 1


def difference(engine: Engine, job: Job) -> tuple[int, str] | None:
    """The first difference and its generation."""
    *_, last = replay_job(engine, job.id)
    return None if last.difference is None else (last.generation, last.difference)


@pytest.mark.parametrize("strategy", ["evolution", "random", "exhaustive", "released"])
def test_a_log_is_what_its_seed_gives(
    engine: Engine,
    leases: Leases,  # noqa: F811
    new_job: NewJob,
    strategy: str,
) -> None:
    levels = [0, 4, 8] if strategy == "exhaustive" else None
    job = new_job(search={**SEARCH, "strategy": strategy, "levels": levels})
    work(engine, leases)
    *generations, end = replay_job(engine, job.id)
    assert all(one.difference is None for one in (*generations, end))
    assert [one.generation for one in generations] == list(range(len(generations)))
    assert end.stop == ("exhausted" if strategy == "exhaustive" else "generations")
    assert end.proposals == 0
    assert sum(one.proposals for one in generations) > 6


def test_a_job_killed_and_resumed_twice_replays(
    database: Database, new_job: NewJob, start_worker: Callable[..., WorkerProcess]
) -> None:
    """kill -9 of the worker in two generations; a third one ends the job."""
    job = new_job(search=SEARCH)
    for generation, name in enumerate(("first", "second")):
        worker = start_worker(name, FAKE_SECONDS="0.3")
        wait_until(
            lambda g=generation: is_evaluated(database, job, g), 30, f"generation {generation}"
        )
        worker.kill()
    start_worker("third")
    assert database.wait_for_end(job).status == JobStatus.SUCCEEDED
    assert {unit.worker_id for unit in database.units(job)} == {"first", "second", "third"}
    *generations, end = replay_job(database.engine, job.id)
    assert [one.difference for one in generations] == [None] * SEARCH["generations"]
    assert (end.difference, end.stop) == (None, "generations")


def is_evaluated(database: Database, job: Job, generation: int) -> bool:
    """Whether a worker is at a unit of that generation."""
    return any(
        (unit.kind, unit.generation, unit.state)
        == (UnitKind.EVALUATE, generation, UnitState.LEASED)
        for unit in database.units(job)
    )


def test_a_search_under_way_is_replayed_as_far_as_it_is(
    engine: Engine,
    leases: Leases,  # noqa: F811
    new_job: NewJob,
) -> None:
    job = new_job()
    assert list(replay_job(engine, job.id)) == []
    work(engine, leases, until=UnitKind.EVALUATE)
    (first,) = replay_job(engine, job.id)
    assert (first.generation, first.proposals, first.difference) == (0, 6, None)


@pytest.mark.parametrize(
    ("values", "where", "says"),
    [
        (
            "genes = '[8, 8, 8, 8]'",
            "generation = 1 AND position = 2",
            "candidate 2 is (8, 8, 8, 8)",
        ),
        ("latency_ms = 1.0", "generation = 1 AND position = 0", "candidate 0 takes 1.0 ms"),
        ("position = 100", "generation = 1 AND position = 0", "candidate 0 is"),
    ],
)
def test_a_changed_row_is_found(
    engine: Engine, finished: Job, values: str, where: str, says: str
) -> None:
    tamper(engine, finished, values, where)
    generation, found = difference(engine, finished)
    assert generation == 1
    assert says in found


def test_a_changed_metric_shows_in_the_generation_after_it(engine: Engine, finished: Job) -> None:
    best = "SELECT id FROM evaluations WHERE job_id = :job AND generation = 0"
    best += " ORDER BY metric DESC, latency_ms LIMIT 1"
    tamper(engine, finished, "metric = 0.0", f"id = ({best})")
    generation, found = difference(engine, finished)
    assert generation == 1
    assert "the seed gives" in found


def test_a_row_that_is_gone_is_found(engine: Engine, finished: Job) -> None:
    with engine.begin() as connection:
        statement = (
            "DELETE FROM evaluations WHERE job_id = :job AND generation = 2 AND position = 5"
        )
        connection.execute(text(statement), {"job": finished.id})
    assert difference(engine, finished) == (2, "the log has 5 candidates, the seed gives 6")


def test_another_reason_to_end_is_found(engine: Engine, finished: Job) -> None:
    with engine.begin() as connection:
        statement = (
            'UPDATE jobs SET progress = (progress::jsonb || \'{"stop": "no_gain"}\')::json '
            "WHERE id = :job"
        )
        connection.execute(text(statement), {"job": finished.id})
    assert difference(engine, finished) == (
        3,
        "the log ends here by no_gain, the settings by generations",
    )


def test_a_job_that_is_not_there(engine: Engine) -> None:
    with pytest.raises(JobNotFound):
        replay_job(engine, new_job_id())


def test_the_command_prints_every_generation_and_fails_at_a_difference(
    engine: Engine, finished: Job, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    app = typer.Typer()
    register(app)
    good = CliRunner().invoke(app, ["replay", finished.id])
    assert good.exit_code == 0, good.output
    assert good.output.splitlines() == [
        *(f"generation {number}: 6 proposals as the seed gives" for number in range(3)),
        "ended after generation 2 (generations), as the seed gives",
    ]
    tamper(engine, finished, "latency_ms = 1.0", "generation = 1 AND position = 0")
    bad = CliRunner().invoke(app, ["replay", finished.id])
    assert bad.exit_code == 1
    assert "generation 1: candidate 0 takes 1.0 ms in the log" in bad.output
    missing = CliRunner().invoke(app, ["replay", new_job_id()])
    assert missing.exit_code == 1
    assert "there is no such job" in missing.output
