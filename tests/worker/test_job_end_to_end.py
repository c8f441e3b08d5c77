"""Real searches by a real worker: torch, the shipped supernet, Postgres and Redis.

Small images and few of them: what is shown is that a job gets through, not what it finds.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.db.artefacts import ArtefactStore
from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.receipts import ReceiptRepository
from service.db.session import session_scope
from service.domain.records import Job
from service.domain.status import EvaluationState, JobStatus
from tests.sparsevit.checkpoints.damage import Canary
from tests.worker.conftest import Database, NewJob, WorkerProcess, wait_until

pytestmark = pytest.mark.alone
StartWorker = Callable[..., WorkerProcess]
JOB_SECONDS = 500.0  # a busy machine measures everything three times

SMALL: dict[str, Any] = {
    "dataset": {"path": "builtin:digits", "limit": 48},
    "input": {"height": 224, "width": 224, "threads": 1},
    "search": {"population": 5, "parents": 2, "generations": 3},
    # Any latency is within it: what is shown must not depend on how busy this machine is.
    "latency_budget_ms": 60_000.0,
}


@pytest.fixture(autouse=True)
def empty_tables() -> None:
    """Rows stay from test to test: the latency map of the first search serves the second."""


@pytest.fixture(scope="module")
def searched() -> dict[str, Job]:
    """Searches that were run, by name."""
    return {}


@pytest.fixture
def worker(start_worker: StartWorker) -> Iterator[WorkerProcess]:
    worker = start_worker("real", fake=False)
    worker.wait_for("is ready", 60)
    yield worker
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0


def test_files_that_are_no_such_checkpoint_fail_their_job_and_nothing_else(
    database: Database, new_job: NewJob, worker: WorkerProcess, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    canary, hostile = tmp_path / "canary", tmp_path / "hostile.pt"
    torch.save({"model": Canary(canary)}, hostile)
    stranger = tmp_path / "resnet.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)}, str(stranger))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(stranger.read_bytes()[:100])
    jobs = {
        "CHECKPOINT_UNSAFE": new_job(checkpoint=hostile),
        "CHECKPOINT_MISMATCH": new_job(checkpoint=stranger),
        "CHECKPOINT_CORRUPT": new_job(checkpoint=cut),
    }
    for code, job in jobs.items():
        ended = database.wait_for_end(job)
        assert ended.status == JobStatus.FAILED
        assert ended.error["code"] == code, ended.error
        assert ended.error["message"]
    assert not canary.exists()
    assert worker.process.poll() is None


def test_a_search_ends_although_its_worker_is_killed_in_the_middle(
    database: Database, new_job: NewJob, start_worker: StartWorker, tmp_path: Path,
    searched: dict[str, Job],
) -> None:  # fmt: skip
    job = searched["killed"] = new_job(**SMALL)
    first = start_worker("first", fake=False)
    database.wait_for_leased(job, "evaluate", seconds=JOB_SECONDS)
    children = psutil.Process(first.process.pid).children()
    first.kill()
    second = start_worker("second", fake=False)
    ended = database.wait_for_end(job, JOB_SECONDS)
    wait_until(lambda: not any(child.is_running() for child in children), 10)
    check_evaluations(database, job)
    assert ended.front
    store = ArtefactStore(tmp_path / "artefacts")
    for name in ("pareto.png", "windows.png", "latency.png"):
        assert store.get(ended.artefacts[name]).startswith(b"\x89PNG")
    check_end(database, ended)
    # A busy machine may have disturbed its measurement, but not those of three searches in turn.
    for _ in range(2):
        if ended.status == JobStatus.SUCCEEDED:
            break
        ended = database.wait_for_end(new_job(**SMALL), JOB_SECONDS)
        check_end(database, ended)
    assert ended.status == JobStatus.SUCCEEDED, ended.error
    second.signal(signal.SIGTERM)
    assert second.process.wait(20) == 0


def test_the_same_seed_undisturbed_has_the_same_candidates_and_metrics(
    database: Database, new_job: NewJob, worker: WorkerProcess, searched: dict[str, Job]
) -> None:
    keep_the_map_of(database, database.job(searched["killed"]))
    job = new_job(**SMALL)
    database.wait_for_leased(job, "measure", seconds=JOB_SECONDS)
    with session_scope(database.engine) as session:  # its measurement would show nothing new
        assert JobRepository(session).request_cancel(job.id)
    assert database.wait_for_end(job).status == JobStatus.CANCELLED
    check_evaluations(database, job)
    one, other = (
        [(row.genes, row.state, row.metric) for row in database.evaluations(same)]
        for same in (job, searched["killed"])
    )
    assert one == other
    assert "calibrate" not in {unit.kind for unit in database.units(job)}


def test_a_dry_run_and_a_budget_out_of_reach_end_where_the_map_stands(
    database: Database, new_job: NewJob, worker: WorkerProcess, searched: dict[str, Job]
) -> None:
    keep_the_map_of(database, database.job(searched["killed"]))
    dry = database.wait_for_end(new_job(**SMALL, dry_run=True))
    tight = database.wait_for_end(new_job(**SMALL | {"latency_budget_ms": 0.01}))
    assert (dry.status, dry.result) == (JobStatus.SUCCEEDED, None), dry.error
    assert (tight.status, tight.error["code"]) == (JobStatus.FAILED, "BUDGET_UNREACHABLE")
    for job in (dry, tight):
        assert [unit.kind for unit in database.units(job)] == ["inspect"]
        assert database.evaluations(job) == []
    assert dry.latency == tight.latency
    figures = dry.latency["scopes"]["model"]
    assert 0 < figures["min_ms"] < figures["nearest_ms"] < figures["dense_ms"]
    assert figures["feasible"][0][0] == figures["min_ms"]
    assert figures["feasible"][-1] == [figures["max_ms"], 1.0]
    assert f"{figures['nearest_ms']:.3f} ms" in tight.error["message"]


def check_end(database: Database, job: Job) -> None:
    """A winner; or, where this machine was busy all the time, none, and the receipts that say so."""
    for point in job.front:
        if point["receipt"] is not None:
            with session_scope(database.engine) as session:
                assert ReceiptRepository(session).get(job.id, point["receipt"])
    if job.status == JobStatus.FAILED:
        assert (job.error["code"], job.result) == ("DEVICE_DISTURBED", None)
        assert not any(point["winner"] for point in job.front)
        return
    assert job.status == JobStatus.SUCCEEDED, job.error
    assert job.result["latency_ms"]["interval"][1] <= job.result["latency_ms"]["budget"]
    assert job.result["search"]["job_id"] == job.id
    scored = [row for row in database.evaluations(job) if row.state == EvaluationState.DONE]
    assert job.result["search"]["evaluations"] == len(scored)


def keep_the_map_of(database: Database, job: Job) -> None:
    """A map measured on a busy machine serves its own job alone; here it is to serve the next."""
    key = job.inspection["latency_map_key"]
    with session_scope(database.engine) as session:
        maps = LatencyMapRepository(session)
        document = maps.get(job.latency_map_key).document
        maps.add(key, job.device, document | {"key": key}, None)


def check_evaluations(database: Database, job: Job) -> None:
    """Every candidate is evaluated, or dropped by racing, and counted once."""
    found = database.evaluations(job)
    assert len(found) == len({row.config_key for row in found}) == 15
    # Who races against whom hangs on the latency map, which is measured: any of them may be dropped,
    # but not of the first generation, which does not race.
    first = [row for row in found if row.generation == 0]
    assert {row.state for row in first} == {EvaluationState.DONE}
    assert {row.state for row in found} <= {EvaluationState.DONE, EvaluationState.DROPPED}
    assert database.job(job).progress["done"] == 15


def test_a_file_that_changed_after_submission_is_refused(
    database: Database, new_job: NewJob, start_worker: StartWorker, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"first")
    changed = new_job(checkpoint=file)
    file.write_bytes(b"second")
    missing_file = tmp_path / "missing.safetensors"
    missing_file.write_bytes(b"soon gone")
    missing = new_job(checkpoint=missing_file)
    missing_file.unlink()
    start_worker("real", fake=False)
    for job, text in ((changed, "changed after"), (missing, "cannot be read")):
        error = database.wait_for_end(job).error
        assert error["code"] == "CHECKPOINT_MISMATCH"
        assert text in error["message"]
