"""Jobs, evaluations, workers, maps, receipts and keys on a real Postgres."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from service.db.evaluations import EvaluationRepository
from service.db.jobs import JobRepository
from service.db.keys import KeyRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.receipts import ReceiptRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.db.workers import ONLINE_SECONDS, WorkerRepository
from service.domain.records import Ending, Job, Proposal, new_job_id
from service.domain.status import (
    TERMINAL,
    TRANSITIONS,
    EvaluationState,
    JobStatus,
    Stage,
    UnitKind,
    WorkerState,
    sources,
)
from tests.service.conftest import add_job

CHANGES = {
    JobStatus.RUNNING: lambda jobs, job_id: jobs.start(job_id),
    JobStatus.CANCELLING: lambda jobs, job_id: jobs.request_cancel(job_id),
    JobStatus.SUCCEEDED: lambda jobs, job_id: jobs.succeed(job_id, {"z": 1, "a": 2}),
    JobStatus.FAILED: lambda jobs, job_id: jobs.fail(job_id, "CODE", "do this"),
    JobStatus.CANCELLED: lambda jobs, job_id: jobs.cancelled(job_id),
}


def get(engine: Engine, job_id: str) -> Job:
    with session_scope(engine) as session:
        job = JobRepository(session).get(job_id)
    assert job is not None
    return job


def put_into(engine: Engine, job_id: str, status: JobStatus) -> None:
    with session_scope(engine) as session:
        session.execute(
            text("UPDATE jobs SET status = :status WHERE id = :id"),
            {"status": status, "id": job_id},
        )


def test_job_ids_sort_by_time_and_never_repeat() -> None:
    ids = [new_job_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(job_id) == 36 and job_id[16] == "7" for job_id in ids)
    assert [job_id[:16] for job_id in ids] == sorted(job_id[:16] for job_id in ids)


def test_the_table_of_transitions_knows_every_state() -> None:
    assert set(TRANSITIONS) == set(JobStatus)
    assert {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED} == TERMINAL
    assert sources(JobStatus.SUCCEEDED) == {JobStatus.RUNNING}
    assert sources(JobStatus.QUEUED) == frozenset()


@pytest.mark.parametrize("target", list(CHANGES))
@pytest.mark.parametrize("source", list(JobStatus))
def test_only_legal_transitions_happen(
    engine: Engine, job_id: str, source: JobStatus, target: JobStatus
) -> None:
    put_into(engine, job_id, source)
    with session_scope(engine) as session:
        changed = CHANGES[target](JobRepository(session), job_id)
    legal = target in TRANSITIONS[source]
    job = get(engine, job_id)
    assert changed is legal
    assert job.status is (target if legal else source)
    assert job.version == (2 if legal else 1)
    assert (job.finished_at is not None) is (legal and target in TERMINAL)


def test_a_job_goes_its_way(engine: Engine, job_id: str) -> None:
    progress = {"done": 1, "failed": 0, "total": 4, "generation": 0, "best": None}
    with session_scope(engine) as session:
        jobs = JobRepository(session)
        assert jobs.start(job_id)
        assert jobs.set_inspection(job_id, {"z": 1, "a": 1}, "Testium", "c" * 64, "d" * 64)
        assert jobs.set_latency_map(job_id, "map-1")
        assert jobs.set_stage(job_id, Stage.SEARCH)
        assert jobs.set_progress(job_id, progress)
        assert jobs.add_verdicts(job_id, ["HEAD_DOMINATES"])
        assert jobs.add_verdicts(job_id, ["HEAD_DOMINATES", "SUPERNET_NOT_ADAPTED"])
        assert jobs.set_front(job_id, [{"b": 1, "a": 2}], {"pareto.png": "0" * 64})
    running = get(engine, job_id)
    assert (running.status, running.stage) == (JobStatus.RUNNING, Stage.SEARCH)
    assert running.verdicts == ["HEAD_DOMINATES", "SUPERNET_NOT_ADAPTED"]
    assert running.progress == progress
    assert running.device == "Testium"
    with session_scope(engine) as session:
        assert JobRepository(session).succeed(job_id, {"z": 1, "a": 2})
    job = get(engine, job_id)
    assert job.result is not None
    assert list(job.result) == ["z", "a"], "documents keep the order of their keys"
    assert job.front is not None
    assert list(job.front[0]) == ["b", "a"]
    assert (job.stage, job.version) == (None, 10)
    with session_scope(engine) as session:
        assert not JobRepository(session).set_progress(job_id, {})
        assert not JobRepository(session).add_verdicts(job_id, ["LATE"])
    assert get(engine, job_id) == job


def test_only_the_owner_gets_a_job(engine: Engine, job_id: str) -> None:
    with session_scope(engine) as session:
        assert JobRepository(session).get(job_id, "ann") is not None
        assert JobRepository(session).get(job_id, "bob") is None
        assert JobRepository(session).lock("job_none") is None


def test_pages_follow_each_other_without_gap(engine: Engine) -> None:
    ids = [add_job(engine) for _ in range(5)]
    add_job(engine, owner="bob")
    put_into(engine, ids[1], JobStatus.FAILED)
    with session_scope(engine) as session:
        jobs = JobRepository(session)
        first = jobs.page("ann", 2)
        rest = jobs.page("ann", 10, after=first[-1])
        failed = jobs.page("ann", 10, status=JobStatus.FAILED)
    assert [job.id for job in first + rest] == ids[::-1]
    assert [job.id for job in failed] == [ids[1]]


def test_due_are_jobs_nobody_works_for(engine: Engine) -> None:
    waiting, leased, idle, stuck, ended = (add_job(engine) for _ in range(5))
    put_into(engine, ended, JobStatus.FAILED)
    put_into(engine, stuck, JobStatus.CANCELLING)
    with session_scope(engine) as session:
        units = UnitRepository(session)
        units.add(leased, UnitKind.INSPECT, {})
        assert units.claim("w", "Testium", "uuid", 60) is not None
        units.add(waiting, UnitKind.INSPECT, {})
        units.add(stuck, UnitKind.EVALUATE, {}, 0, 0)
    with session_scope(engine) as session:
        assert JobRepository(session).due_for_step() == [idle, stuck]


def test_an_evaluation_is_counted_once(engine: Engine, job_id: str) -> None:
    proposals = [Proposal("[1,2]", [0, 1], 10.0), Proposal("[1,1]", [0, 2], 9.0)]
    with session_scope(engine) as session:
        evaluations = EvaluationRepository(session)
        assert evaluations.add(job_id, 0, proposals) == 2
        assert evaluations.add(job_id, 0, proposals) == 0
        assert evaluations.add(job_id, 1, [Proposal("[1,2]", [0, 1], 10.0)]) == 0
        assert evaluations.add(job_id, 1, []) == 0
        first, second = evaluations.for_job(job_id)
        assert evaluations.end([]) == 0
        assert evaluations.end([Ending.done(first.id, 0.5, 40)]) == 1
        assert evaluations.end([Ending.done(first.id, 0.9, 40)]) == 0
        done, waiting = evaluations.for_job(job_id)
        assert (done.state, waiting.state) == (EvaluationState.DONE, EvaluationState.PENDING)
        assert (done.metric, done.images, done.genes) == (0.5, 40, [0, 1])
        assert [row.id for row in evaluations.for_job(job_id, 1)] == [first.id]
        assert [row.id for row in evaluations.for_job(job_id, 9, after=first)] == [second.id]
        assert evaluations.get("job_other", first.id) is None


def test_a_dropped_evaluation_keeps_what_was_known(engine: Engine, job_id: str) -> None:
    with session_scope(engine) as session:
        evaluations = EvaluationRepository(session)
        evaluations.add(job_id, 0, [Proposal("[1]", [1], 9.0), Proposal("[2]", [2], 8.0)])
        first, second = evaluations.for_job(job_id)
        scored = [Ending.done(first.id, 0.5, 40, [[[1], [2]], [[3], [4]]])]
        assert evaluations.end([*scored, Ending.done(second.id, 0.4, 40)]) == 2
        assert evaluations.folds([first.id, second.id]) == {
            first.id: [[[1], [2]], [[3], [4]]],
            second.id: None,
        }
        new = [Proposal("[3]", [3], 10.0, rival_id=first.id), Proposal("[4]", [4], 7.0)]
        evaluations.add(job_id, 1, new)
        racing = evaluations.for_job(job_id)[2]
        assert racing.rival_id == first.id
        late = [Ending.dropped(row.id, 0.25, (0.125, 0.375), 10) for row in (first, racing)]
        assert evaluations.end(late) == 1
        dropped = evaluations.get(job_id, racing.id)
    assert dropped is not None
    assert dropped.state == EvaluationState.DROPPED
    assert (dropped.metric, dropped.metric_interval, dropped.images) == (0.25, [0.125, 0.375], 10)
    assert dropped.finished_at is not None


def test_workers_and_their_devices(engine: Engine) -> None:
    with session_scope(engine) as session:
        workers = WorkerRepository(session)
        for name, device, kind in [("a", "Testium", "cpu"), ("b", "Fastium", "cuda")]:
            workers.register(name, device, f"uuid-{name}", kind, "host", {"torch": "2"})
        assert workers.seen("a", 7)
        assert workers.stopped("b")
        assert not workers.seen("unknown", None)
    with session_scope(engine) as session:
        workers = WorkerRepository(session)
        found = {worker.id: worker for worker in workers.all()}
        assert (found["a"].state, found["a"].unit_id) == (WorkerState.BUSY, 7)
        assert found["a"].online
        assert not found["b"].online
        devices = {device.name: device for device in workers.devices()}
        assert devices["Testium"].workers_online == 1
        assert (devices["Fastium"].kind, devices["Fastium"].workers_online) == ("cuda", 0)
        session.execute(
            text("UPDATE workers SET seen_at = now() - :age * interval '1 s'"),
            {"age": ONLINE_SECONDS + 1},
        )
    with session_scope(engine) as session:
        assert WorkerRepository(session).all(online_only=True) == []
        WorkerRepository(session).register("a", "Testium", "u", "cpu", "host", {})
        assert [worker.id for worker in WorkerRepository(session).all(online_only=True)] == ["a"]


def test_the_first_map_and_receipt_of_a_key_stay(engine: Engine, job_id: str) -> None:
    with session_scope(engine) as session:
        maps = LatencyMapRepository(session)
        assert maps.get("key") is None
        assert maps.add("key", "Testium", {"z": 1, "a": 2}, {"scopes": {}})
        assert not maps.add("key", "Testium", {"other": True}, None)
        record = maps.get("key")
        assert record is not None
        assert list(record.document) == ["z", "a"]
        assert record.summary == {"scopes": {}}
        receipts = ReceiptRepository(session)
        assert receipts.add(job_id, "r1", "latency", {"p50": 1.0})
        assert not receipts.add(job_id, "r1", "latency", {"p50": 2.0})
        assert receipts.get(job_id, "r1") == {"p50": 1.0}
        assert receipts.get(job_id, "r2") is None


def test_a_key_is_known_by_its_digest_alone(engine: Engine) -> None:
    with session_scope(engine) as session:
        keys = KeyRepository(session)
        key = keys.create("ann", "laptop")
        other = keys.create("bob", "")
        assert keys.owner_of(key) == "ann"
        assert keys.owner_of(other) == "bob"
        for wrong in ("", key + "x", key[:-1], "' OR 1=1--", "\ud800", "svit_\x00"):
            assert keys.owner_of(wrong) is None
        (record,) = keys.all("ann")
        assert key not in repr(record)
        stored = session.execute(text("SELECT string_agg(api_keys::text, '') FROM api_keys"))
        assert key not in stored.scalar_one()
        assert keys.revoke(record.id)
        assert not keys.revoke(record.id)
        assert keys.owner_of(key) is None
