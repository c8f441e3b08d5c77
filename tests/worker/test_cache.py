"""Evaluations are paid once: what is asked of the device, what is kept, and for whom."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.records import Job, Unit
from service.domain.status import JobStatus, UnitKind
from tests.worker import rows
from tests.worker.conftest import Database, NewJob, WorkerProcess
from tests.worker.rows import FACTS
from tests.worker.test_tasks import work
from worker.leases import Leases
from worker.reuse import Known
from worker.supervisor import Failed, Finished

StartWorker = Callable[..., WorkerProcess]
OTHERS = {"latency_budget_ms": 30.0, "search": {"seed": 8}}


@pytest.fixture
def asked(start_worker: StartWorker, tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Starts a worker; gives what its device was asked to evaluate since the last call."""
    log = tmp_path / "requests"
    start_worker("one", FAKE_LOG=str(log), SWEEP_SECONDS="0.2")
    read = 0

    def new() -> list[dict[str, Any]]:
        nonlocal read
        requests = [json.loads(line) for line in log.read_text().splitlines()]
        requests, read = requests[read:], len(requests)
        return [one["payload"] for one in requests if one["kind"] == "evaluate"]

    return new


def evaluated(payloads: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    """(shard, *genes) of all that the device evaluated."""
    return [(one["shard"], *genes) for one in payloads for genes in one["candidates"]]


def outcome(database: Database, job: Job) -> list[tuple[list[int], float | None]]:
    return [(row.genes, row.metric) for row in database.evaluations(job)]


def test_a_later_search_pays_for_what_is_new_and_finds_the_same(
    database: Database, new_job: NewJob, asked: Callable[[], list[dict[str, Any]]]
) -> None:
    first = new_job()
    database.wait_for_end(first)
    paid = evaluated(asked())
    assert len(paid) == len(set(paid)) == 18 * 3

    again = new_job()
    database.wait_for_end(again)
    assert evaluated(asked()) == []

    other = new_job(**OTHERS)
    database.wait_for_end(other)
    new = evaluated(asked())
    wanted = {(shard, *row.genes) for row in database.evaluations(other) for shard in range(3)}
    assert 0 < len(new) < len(wanted)
    assert set(new) == wanted - set(paid)
    assert len(new) == len(set(new))

    anew = new_job(**OTHERS | {"search": {"seed": 8, "reuse": False}})
    database.wait_for_end(anew)
    assert set(evaluated(asked())) == wanted
    for job in (first, again, other, anew):
        database.check_complete(job)
    assert outcome(database, first) == outcome(database, again)
    assert outcome(database, other) == outcome(database, anew)


def test_nobody_gets_another_owners_evaluations(
    database: Database, new_job: NewJob, asked: Callable[[], list[dict[str, Any]]]
) -> None:
    database.wait_for_end(new_job())
    mine = evaluated(asked())
    theirs = new_job(owner="you")
    database.wait_for_end(theirs)
    assert evaluated(asked()) == mine
    database.check_complete(theirs)


@pytest.fixture
def leases(engine: Engine) -> Leases:
    return Leases(engine, "worker-1", lease_seconds=60, artifact_root="/nowhere")


def known(leases: Leases, unit: Unit) -> Known:
    return leases.known(unit, leases.request(unit), FACTS)


def compute(request: dict[str, Any]) -> Finished:
    return Finished(rows.simulate("evaluate", request["payload"]))


def entries(engine: Engine) -> int:
    with session_scope(engine) as session:
        return session.execute(text("SELECT count(*) FROM evaluation_cache")).scalar_one()


def held(engine: Engine, leases: Leases) -> Unit:
    unit = work(engine, leases, until=UnitKind.EVALUATE)
    assert unit is not None
    return unit


def test_an_attempt_that_came_too_late_leaves_nothing(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    new_job()
    late = held(engine, leases)
    found = known(leases, late)
    assert found.states == {}
    with engine.begin() as connection:  # between its look and its end its lease runs out
        connection.execute(text("UPDATE units SET lease_until = now() - interval '1 s' "
                                "WHERE state = 'leased'"))  # fmt: skip
    with session_scope(engine) as session:
        UnitRepository(session).expire()
    outcome = found.run(leases.request(late), compute)
    assert not leases.finish(late, outcome.result, outcome.kept)
    assert entries(engine) == 0

    unit = held(engine, leases)
    assert (unit.id, unit.attempt) == (late.id, late.attempt + 1)
    outcome = known(leases, unit).run(leases.request(unit), compute)
    assert leases.finish(unit, outcome.result, outcome.kept)
    assert entries(engine) == len(unit.payload["candidates"]) == 6


def test_two_workers_may_keep_the_same_evaluations(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    new_job(), new_job()
    one = held(engine, leases)
    other = held(engine, leases)
    assert one.job_id != other.job_id
    assert (one.shard, one.payload) == (other.shard, other.payload)
    for unit in (one, other):
        outcome = Known(known(leases, one).keys, {}).run(leases.request(unit), compute)
        assert outcome.kept
        assert leases.finish(unit, outcome.result, outcome.kept)
    assert entries(engine) == 6


def test_a_unit_that_is_known_needs_no_device(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    new_job()
    unit = held(engine, leases)
    outcome = known(leases, unit).run(leases.request(unit), compute)
    leases.finish(unit, outcome.result, outcome.kept)
    new_job()
    again = held(engine, leases)
    while (again.job_id, again.shard) == (unit.job_id, unit.shard) or again.shard != unit.shard:
        again = held(engine, leases)
    made = known(leases, again).run(leases.request(again), pytest.fail)
    assert made == Finished({"states": outcome.result["states"], "seconds": 0.0})


GENES = st.tuples(*(st.integers(0, 8) for _ in range(sum(rows.PAIRS))))


@settings(deadline=None)
@given(st.lists(GENES, unique=True, max_size=12), st.data())
def test_whatever_is_known_the_answer_is_that_of_all_in_order(
    genes: list[tuple[int, ...]], data: st.DataObject
) -> None:
    payload = {"candidates": [list(one) for one in genes], "shard": 2, "shards": 3}
    whole = rows.simulate("evaluate", payload)["states"]
    keys = tuple(bytes(one) for one in genes)
    there = data.draw(st.sets(st.sampled_from(range(len(genes)))) if genes else st.just(set()))
    sent: list[dict[str, Any]] = []

    def run(request: dict[str, Any]) -> Finished:
        sent.append(request)
        return compute(request)

    made = Known(keys, {keys[i]: whole[i] for i in there}).run(
        {"kind": "evaluate", "payload": payload}, run
    )
    missing = [i for i in range(len(genes)) if i not in there]
    assert made.result["states"] == whole
    assert made.kept == {keys[i]: whole[i] for i in missing}
    assert len(sent) == bool(missing)
    for request in sent:
        assert request["kind"] == "evaluate"
        assert request["payload"] == payload | {"candidates": [list(genes[i]) for i in missing]}


def test_a_failure_keeps_nothing() -> None:
    failed = Failed({"code": "INTERNAL", "message": "it broke"}, retry=True)
    request = {"payload": {"candidates": [[0, 0, 0, 0]]}}
    assert Known((b"key",), {}).run(request, lambda _: failed) is failed


def test_a_job_of_an_older_version_reuses(
    engine: Engine, leases: Leases, new_job: NewJob, database: Database
) -> None:
    job = new_job()
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET request = request::jsonb #- '{search,reuse}' WHERE id = :id"),
            {"id": job.id},
        )
    work(engine, leases)
    assert "reuse" not in database.job(job).request["search"]
    assert database.job(job).status == JobStatus.SUCCEEDED
