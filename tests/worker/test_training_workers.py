"""A training on workers that are ended, or that have little memory: each test starts its own."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from service.client import Client
from service.domain.status import JobStatus, UnitState
from tests.service.api_server import Api
from tests.worker.conftest import Database, WorkerProcess, wait_until
from tests.worker.test_training_end_to_end import (
    JOB_SECONDS,
    REQUEST,
    failure,
    slices,
    submitted,
)


@pytest.fixture(autouse=True)
def empty_tables() -> None:
    """The API keeps its own keys there, and a latency map serves the next test, too."""


def test_a_worker_told_to_end_keeps_what_it_trained(
    database: Database, api: Api, client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    options = {
        "ARTIFACT_ROOT": str(api.artefacts.root),
        "SLICE_SECONDS": "600",
        "TEST_DEVICE": "clocked_device.py",
    }
    first = start_worker("first", **options)
    steps = REQUEST["adapt"] | {"steps": 100_000}
    job = submitted(database, client, adapt=steps)

    def trained() -> int:
        training = database.job(job).progress["training"]
        return 0 if training is None else training["step"]

    wait_until(lambda: trained() > 0, JOB_SECONDS, "a step of its only slice")
    seen = trained()
    first.signal(signal.SIGTERM)
    assert first.process.wait(20) == 0
    done = slices(database, job)[0]
    assert (done.state, done.attempt, done.failures) == (UnitState.DONE, 1, 0)
    assert done.result["step"] >= seen
    assert not done.result["done"]
    assert api.artefacts.path(done.result["checkpoint"]).exists()

    second = start_worker("second", **options)
    wait_until(lambda: trained() > done.result["step"], JOB_SECONDS, "a step of the next slice")
    client.cancel(job.id)
    assert database.wait_for_end(job, 10).status == JobStatus.CANCELLED
    second.signal(signal.SIGTERM)
    assert second.process.wait(20) == 0


def test_a_slice_that_does_not_fit_the_memory_fails_its_job_alone(
    database: Database, api: Api, client: Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    options = {"TEST_DEVICE": "clocked_device.py", "FAKE_MEMORY_MB": "500"}
    worker = start_worker("small", ARTIFACT_ROOT=str(api.artefacts.root), **options)
    large = submitted(database, client, adapt=REQUEST["adapt"] | {"batch": 64})
    error = failure(database, large)
    assert error["code"] == "DEVICE_OUT_OF_MEMORY"
    assert "smaller" in error["message"]
    small = submitted(database, client, finetune=None)
    wait_until(lambda: database.job(small).weights is not None, JOB_SECONDS, "adapted weights")
    client.cancel(small.id)
    assert database.wait_for_end(small, 10).status == JobStatus.CANCELLED
    assert worker.text.count("is ready") == 1  # the device process, too, is the same
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0
