"""Steps on a real Postgres: each is one transaction, whoever takes it and however often."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service.db.artefacts import ArtefactStore
from service.db.evaluations import EvaluationRepository
from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.receipts import ReceiptRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.records import Evaluation, Job, Unit
from service.domain.status import EvaluationState, JobStatus, Stage, UnitKind, UnitState
from sparsevit.search.latency_map import map_key
from tests.worker import rows
from tests.worker.conftest import NewJob
from worker import tasks
from worker.leases import Leases

MODEL = rows.DEVICE["model"]
STORE = ArtefactStore(Path("/nowhere"))  # of jobs that leave nothing there


def advance(engine: Engine, job_id: str, store: ArtefactStore = STORE) -> list[str | None]:
    return tasks.advance(engine, store, job_id)


@pytest.fixture
def leases(engine: Engine) -> Leases:
    return Leases(engine, "worker-1", lease_seconds=60, artifact_root=STORE.root)


@pytest.fixture
def job_of(engine: Engine) -> Callable[[Job], Job]:
    def read(job: Job) -> Job:
        with session_scope(engine) as session:
            found = JobRepository(session).get(job.id)
        assert found is not None
        return found

    return read


def evaluations(engine: Engine, job: Job) -> list[Evaluation]:
    with session_scope(engine) as session:
        return EvaluationRepository(session).for_job(job.id)


def units(engine: Engine, job: Job) -> list[Unit]:
    with session_scope(engine) as session:
        return UnitRepository(session).for_job(job.id)


def work(engine: Engine, leases: Leases, until: UnitKind | None = None) -> Unit | None:
    """Run units, and the steps after them, until there are none or one of kind `until` is held."""
    while (unit := leases.claim(MODEL, "CPU-1")) is not None:
        if unit.kind == until:
            return unit
        assert leases.finish(unit, rows.simulated_result(unit))
        advance(engine, unit.job_id)
    return None


def test_a_job_runs_to_its_end(
    engine: Engine, leases: Leases, new_job: NewJob, job_of: Callable[[Job], Job]
) -> None:
    job = new_job()
    work(engine, leases)
    ended = job_of(job)
    assert ended.status == JobStatus.SUCCEEDED
    assert ended.device == MODEL
    assert ended.checkpoint_sha256 == rows.INSPECTION["checkpoint_sha256"]
    assert ended.latency_map_key == rows.MAP_KEY
    assert ended.result is not None
    assert ended.front
    assert ended.artefacts == {"pareto.png": "a" * 64}
    found = evaluations(engine, job)
    assert len(found) == len({row.config_key for row in found}) == 18
    assert {row.state for row in found} == {EvaluationState.DONE}
    assert (ended.progress["done"], ended.progress["total"]) == (18, 18)
    assert ended.progress["best"]["metric"] == max(row.metric for row in found)
    with session_scope(engine) as session:
        receipts = ReceiptRepository(session)
        assert receipts.get(job.id, "rcpt_1")
        assert receipts.get(job.id, "rcpt_2")


def test_the_next_job_of_that_kind_needs_no_calibration(
    engine: Engine, leases: Leases, new_job: NewJob, job_of: Callable[[Job], Job]
) -> None:
    new_job()
    work(engine, leases)
    second = new_job()
    work(engine, leases)
    assert job_of(second).status == JobStatus.SUCCEEDED
    assert UnitKind.CALIBRATE not in {unit.kind for unit in units(engine, second)}
    with session_scope(engine) as session:
        assert ReceiptRepository(session).get(second.id, "rcpt_1")


def test_the_same_seed_proposes_the_same_in_the_same_order(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    jobs = [new_job(), new_job()]
    work(engine, leases)  # their units alternate
    one, other = ([row.genes for row in evaluations(engine, job)] for job in jobs)
    assert one == other


def test_steps_taken_by_many_at_once_are_taken_once(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    job = new_job()
    while True:
        held = []
        while (unit := leases.claim(MODEL, "CPU-1")) is not None:
            held.append(unit)
        if not held:
            break
        for unit in held:
            assert leases.finish(unit, rows.simulated_result(unit))
        threads = [threading.Thread(target=advance, args=(engine, job.id)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = evaluations(engine, job)
    assert [row.generation for row in found] == [0] * 6 + [1] * 6 + [2] * 6
    assert len(units(engine, job)) == 1 + 1 + 3 * 3 + 1


def test_advance_names_the_devices_of_new_units(
    engine: Engine, leases: Leases, new_job: NewJob
) -> None:
    job = new_job()
    assert advance(engine, job.id) == []
    unit = leases.claim(MODEL, "CPU-1")
    leases.finish(unit, rows.INSPECTION)
    assert advance(engine, job.id) == [MODEL]
    assert advance(engine, job.id) == []


def test_an_unknown_job_is_no_error(engine: Engine) -> None:
    assert advance(engine, "job_nowhere") == []


def test_a_failed_unit_fails_the_job_and_frees_the_others(
    engine: Engine, leases: Leases, new_job: NewJob, job_of: Callable[[Job], Job]
) -> None:
    job = new_job()
    unit = work(engine, leases, until=UnitKind.EVALUATE)
    leases.fail(unit, {"code": "DATASET_INVALID", "message": "image 7"}, retry=False)
    advance(engine, job.id)
    ended = job_of(job)
    assert ended.status == JobStatus.FAILED
    assert ended.error == {"code": "DATASET_INVALID", "message": "image 7", "pointer": None}
    states = {u.state for u in units(engine, job) if u.kind == UnitKind.EVALUATE}
    assert states == {UnitState.FAILED, UnitState.CANCELLED}
    assert leases.claim(MODEL, "CPU-1") is None


def test_a_dry_run_ends_with_the_figures_of_its_map(
    engine: Engine, leases: Leases, new_job: NewJob, job_of: Callable[[Job], Job]
) -> None:
    job = new_job(dry_run=True, search={"levels": [0, 8]})
    work(engine, leases)
    ended = job_of(job)
    assert (ended.status, ended.stage, ended.result) == (JobStatus.SUCCEEDED, None, None)
    assert ended.latency is not None
    assert ended.latency["scopes"]["model"]["configs"] == 2 * 2 * 3
    assert [unit.kind for unit in units(engine, job)] == [UnitKind.INSPECT, UnitKind.CALIBRATE]
    with session_scope(engine) as session:
        assert ReceiptRepository(session).get(job.id, ended.latency["receipt"])
        (figures,) = LatencyMapRepository(session).standing()
    assert figures.key == ended.latency_map_key == rows.MAP_KEY
    assert figures.facts == rows.MAP_FACTS
    assert figures.summary is not None
    assert figures.summary["scopes"]["model"]["configs"] == 9 * 9 * 45  # of all levels


def test_a_dry_run_whose_checkpoint_is_bad_fails_with_its_error(
    engine: Engine, leases: Leases, new_job: NewJob, job_of: Callable[[Job], Job]
) -> None:
    job = new_job(dry_run=True)
    unit = leases.claim(MODEL, "CPU-1")
    leases.fail(unit, {"code": "CHECKPOINT_CORRUPT", "message": "cut"}, retry=False)
    advance(engine, job.id)
    ended = job_of(job)
    assert (ended.status, ended.latency) == (JobStatus.FAILED, None)
    assert ended.error["code"] == "CHECKPOINT_CORRUPT"


def test_a_map_under_older_versions_stays_unused(
    engine: Engine, leases: Leases, new_job: NewJob, job_of: Callable[[Job], Job]
) -> None:
    facts = rows.MAP_FACTS | {"versions": {"torch": "2.10"}}
    old = replace(rows.latency_map(), key=map_key(facts), facts=facts)
    with session_scope(engine) as session:
        LatencyMapRepository(session).add(old.key, MODEL, old.to_dict(), None)
    job = new_job()
    work(engine, leases)
    assert job_of(job).latency_map_key == rows.MAP_KEY != old.key
    assert UnitKind.CALIBRATE in {unit.kind for unit in units(engine, job)}


def test_a_job_that_was_not_measured_quietly_fails_and_keeps_front_and_receipts(
    engine: Engine, leases: Leases, new_job: NewJob, job_of: Callable[[Job], Job]
) -> None:
    job = new_job()
    unit = work(engine, leases, until=UnitKind.MEASURE)
    error = {"code": "DEVICE_DISTURBED", "message": "run it on a quiet device"}
    leases.finish(unit, rows.simulated_result(unit) | {"document": None, "error": error})
    advance(engine, job.id)
    ended = job_of(job)
    assert (ended.status, ended.error["code"]) == (JobStatus.FAILED, "DEVICE_DISTURBED")
    assert ended.result is None
    assert ended.front
    assert ended.latency
    with session_scope(engine) as session:
        for receipt in ("rcpt_1", "rcpt_2"):
            assert ReceiptRepository(session).get(job.id, receipt)


def test_an_unreachable_budget_fails_the_job(
    engine: Engine, leases: Leases, new_job: NewJob, job_of: Callable[[Job], Job]
) -> None:
    job = new_job(latency_budget_ms=0.01)
    work(engine, leases)
    ended = job_of(job)
    assert ended.error["code"] == "BUDGET_UNREACHABLE"
    assert "11.000 ms" in ended.error["message"]
    assert ended.latency["scopes"]["model"]["nearest_ms"] == 11.55
    with session_scope(engine) as session:  # the map stands for the next search
        assert LatencyMapRepository(session).get(rows.MAP_KEY) is not None


def test_cancelling_waits_for_the_leased_unit(
    engine: Engine, leases: Leases, new_job: NewJob, job_of: Callable[[Job], Job]
) -> None:
    job = new_job()
    unit = work(engine, leases, until=UnitKind.EVALUATE)
    with session_scope(engine) as session:
        JobRepository(session).request_cancel(job.id)
        UnitRepository(session).cancel_pending(job.id)
    advance(engine, job.id)
    assert job_of(job).status == JobStatus.CANCELLING
    assert leases.heartbeat(unit) == "cancel"
    leases.cancel(unit)
    advance(engine, job.id)
    assert job_of(job).status == JobStatus.CANCELLED


def test_a_step_that_raises_ends_the_job(
    engine: Engine,
    leases: Leases,
    new_job: NewJob,
    job_of: Callable[[Job], Job],
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = new_job()
    unit = leases.claim(MODEL, "CPU-1")
    leases.finish(unit, {"not": "an inspection"})
    advance(engine, job.id)
    assert job_of(job).error["code"] == "INTERNAL"
    assert "KeyError" in caplog.text


def test_a_step_cut_off_before_its_commit_left_nothing(
    engine: Engine,
    leases: Leases,
    new_job: NewJob,
    job_of: Callable[[Job], Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = new_job()
    unit = leases.claim(MODEL, "CPU-1")
    leases.finish(unit, rows.INSPECTION)
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "_add_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            advance(engine, job.id)
    assert job_of(job).stage == Stage.INSPECT
    with session_scope(engine) as session:
        assert JobRepository(session).due_for_step() == [job.id]
    assert advance(engine, job.id) == [MODEL]
    assert job_of(job).stage == Stage.CALIBRATE
