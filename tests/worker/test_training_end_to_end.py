"""Real jobs that train: over HTTP, by a real worker, on the digits set, and through faults.

Few steps on small images: what is shown is that weights, config and numbers fit together, not how
good they are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.client import Client, RemoteError
from service.domain.records import Job
from service.domain.status import JobStatus, UnitState
from tests.service.api_server import Api
from tests.worker.conftest import Database, WorkerProcess, report_metric, wait_until

pytestmark = pytest.mark.alone  # most of its jobs measure

JOB_SECONDS = 120.0
DATA = {"path": "builtin:digits", "limit": 24}
REQUEST: dict[str, Any] = {
    "checkpoint": "builtin:digits",
    "dataset": DATA,
    "input": {"height": 224, "width": 224, "threads": 1},
    "search": {"population": 4, "parents": 2, "generations": 1},
    "latency_budget_ms": 60_000.0,
    "adapt": {"steps": 24, "batch": 2, "accumulate": 1, "warmup": 2, "learning_rate": 1e-3},
    "finetune": {"steps": 4, "batch": 2, "accumulate": 1, "warmup": 0, "learning_rate": 1e-4},
}


@pytest.fixture(autouse=True)
def empty_tables() -> None:
    """Rows stay from test to test: what the first one trained is what the others must train."""


@pytest.fixture(scope="module")
def adapted() -> dict[str, str]:
    """The SHA-256 of the weights that an undisturbed adaptation ended with."""
    return {}


def submitted(database: Database, client: Client, **changes: Any) -> Job:
    job_id = client.submit(REQUEST | changes)["id"]
    (job,) = (job for job in jobs(database) if job.id == job_id)
    return job


def jobs(database: Database) -> list[Job]:
    from service.db.jobs import JobRepository
    from service.db.session import session_scope

    with session_scope(database.engine) as session:
        return JobRepository(session).page("ann", 100)


def slices(database: Database, job: Job, kind: str = "adapt") -> list[Any]:
    return [unit for unit in database.units(job) if unit.kind == kind]


def failure(database: Database, job: Job) -> dict[str, Any]:
    ended = database.wait_for_end(job, JOB_SECONDS)
    assert ended.status == JobStatus.FAILED
    return ended.error


def wait_for_second_slice(database: Database, job: Job, kind: str = "adapt") -> None:
    """Return while the second slice is being worked on: there is a checkpoint to go on from."""

    def leased() -> bool:
        now = database.job(job)
        assert not now.status.terminal, (now.status, now.error)
        found = [u for u in slices(database, job, kind) if u.shard == 1]
        return bool(found) and found[0].state == UnitState.LEASED

    wait_until(leased, JOB_SECONDS, f"the second slice of {kind}")


def test_a_job_adapts_searches_and_fine_tunes_and_its_files_hold_what_it_says(
    database: Database, api: Api, client: Client, trainer: WorkerProcess, tmp_path: Path,
    adapted: dict[str, str],
) -> None:  # fmt: skip
    job = submitted(database, client)
    seen = [(one["stage"], one["progress"]["training"]) for one in client.watch(job.id, 0.1)]
    shown, document = client.job(job.id), database.job(job).result
    assert shown["status"] == "succeeded", shown["error"]
    assert {"adapt", "search", "verify", "finetune"} <= {stage for stage, _ in seen}
    told = [training for stage, training in seen if stage == "adapt" and training is not None]
    assert told[-1]["step"] > 0
    assert told[-1]["steps"] == 24
    assert told[-1]["loss"] > 0
    assert shown["settled"]["adapt"].items() >= REQUEST["adapt"].items()
    assert shown["settled"]["finetune"]["precision"] == "fp32"
    assert shown["progress"]["training"] is None

    config, weights = tmp_path / "best.json", tmp_path / "weights.safetensors"
    config.write_bytes(client.config(job.id))
    client.weights(job.id, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert shown["weights"] == {"sha256": digest, "source": "finetuned"}
    assert document["weights"].items() >= shown["weights"].items()
    assert report_metric(config, weights, DATA) == document["metric"]["value"]
    assert set(document["metric"]["before_finetune"]) == {"value", "interval"}
    assert document["latency_ms"]["interval"][1] <= document["latency_ms"]["budget"]

    trained = slices(database, job)
    assert len(trained) > 1, "one slice shows nothing of the next"
    adapted["sha256"] = trained[-1].result["weights"]
    assert adapted["sha256"] != digest
    left = {path.name for path in api.artefacts.root.iterdir() if path.is_file()}
    assert left >= {f"{sha}.safetensors" for sha in (adapted["sha256"], digest)}
    superseded = {unit.result["checkpoint"] for unit in trained[:-1]}
    assert len(superseded) == len(trained) - 1
    assert not left & superseded
    assert not (api.artefacts.root / "training" / job.id).exists()


def test_a_device_process_killed_in_a_slice_changes_no_weight(
    database: Database, client: Client, trainer: WorkerProcess, adapted: dict[str, str]
) -> None:
    job = submitted(database, client)
    wait_for_second_slice(database, job)
    (device,) = psutil.Process(trainer.process.pid).children()
    device.kill()
    wait_until(lambda: database.job(job).weights is not None, JOB_SECONDS, "adapted weights")
    client.cancel(job.id)
    assert database.wait_for_end(job).status == JobStatus.CANCELLED
    assert max(unit.failures for unit in slices(database, job)) == 1
    assert database.job(job).weights == {"sha256": adapted["sha256"], "source": "adapted"}


def test_a_job_cancelled_while_it_adapts_leaves_nothing(
    database: Database, api: Api, client: Client, trainer: WorkerProcess
) -> None:
    before = set(api.artefacts.root.iterdir())
    job = submitted(database, client, adapt=REQUEST["adapt"] | {"steps": 10_000, "seed": 1})
    wait_for_second_slice(database, job)
    client.cancel(job.id)
    assert database.wait_for_end(job, 10).status == JobStatus.CANCELLED
    with pytest.raises(RemoteError) as caught:
        client.weights(job.id, api.data / "weights")
    assert caught.value.code == "RESULT_NOT_READY"
    wait_until(lambda: not list(api.artefacts.root.glob(f"training/{job.id}")), 5, "its folder")
    assert set(api.artefacts.root.iterdir()) == before
    assert trainer.process.poll() is None


def test_a_dense_model_that_is_not_what_was_expected_fails_its_job_at_once(
    database: Database, client: Client, trainer: WorkerProcess
) -> None:
    job = submitted(database, client, preprocess={"expected_dense_metric": 0.93})
    error = database.wait_for_end(job).error
    assert error["code"] == "DENSE_METRIC_MISMATCH"
    assert "0.930 was expected" in error["message"]
    assert [unit.kind for unit in database.units(job)] == ["inspect"]


def test_a_job_cancelled_while_it_fine_tunes_keeps_its_front(
    database: Database, api: Api, client: Client, trainer: WorkerProcess
) -> None:
    long = REQUEST["finetune"] | {"steps": 100_000}
    job = submitted(database, client, adapt=None, finetune=long)
    wait_for_second_slice(database, job, "finetune")
    client.cancel(job.id)
    ended = database.wait_for_end(job, 10)
    assert (ended.status, ended.result, ended.weights) == (JobStatus.CANCELLED, None, None)
    assert json.loads(client.pareto(job.id))["data"]
    wait_until(lambda: not list(api.artefacts.root.glob(f"training/{job.id}")), 5, "its folder")
    used = {unit.result["checkpoint"] for unit in slices(database, job, "finetune") if unit.result}
    assert not used & {path.name for path in api.artefacts.root.iterdir()}
