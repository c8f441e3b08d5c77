"""What can go wrong in a training, over HTTP and by a real worker: each ends in its error or goes on,
and the worker lives."""

from __future__ import annotations

import os

import pytest

from service.client import Client
from sparsevit.data.make import imagenet
from tests.service.api_server import Api
from tests.sparsevit.tasks import classifiers
from tests.worker.conftest import Database, WorkerProcess
from tests.worker.test_training_end_to_end import (
    REQUEST,
    failure,
    submitted,
    wait_for_second_slice,
)


@pytest.fixture(autouse=True)
def empty_tables() -> None:
    """The API keeps its own keys there, and a latency map serves the next test, too."""


def test_training_data_that_changed_between_two_slices_is_noticed(
    database: Database, api: Api, client: Client, trainer: WorkerProcess
) -> None:
    folder = api.data / "changing"
    (folder / "model").mkdir(parents=True)
    checkpoint = classifiers.timm(folder / "model").path
    counts = {"train": 8, "val": 10}
    list(imagenet.make(folder / "data", counts, None, seed=0, classes=classifiers.CLASSES))
    job = submitted(
        database,
        client,
        checkpoint=str(checkpoint),
        dataset=str(folder / "data"),
        input={"height": 112, "width": 112, "threads": 1},
        adapt=REQUEST["adapt"] | {"steps": 100_000},
    )
    wait_for_second_slice(database, job)
    image = next((folder / "data" / "train").rglob("*.JPEG"))
    facts = image.stat()
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    error = failure(database, job)
    assert error["code"] == "DATASET_INVALID"
    assert "training split changed" in error["message"]


def test_a_training_that_diverges_says_at_which_step_and_rate(
    database: Database, client: Client, trainer: WorkerProcess
) -> None:
    wild = REQUEST["adapt"] | {"learning_rate": 10.0, "weight_decay": 10.0, "warmup": 0}
    error = failure(database, submitted(database, client, adapt=wild))
    assert error["code"] == "CONFIG_INVALID"
    assert "diverged at step" in error["message"]
    assert "lower the learning rate, 10" in error["message"]
    assert trainer.process.poll() is None


def test_a_precision_that_a_cpu_cannot_train_in_ends_the_job_at_its_inspection(
    database: Database, client: Client, trainer: WorkerProcess
) -> None:
    job = submitted(database, client, finetune={"precision": "fp16"})
    error = failure(database, job)
    assert error["code"] == "CONFIG_INVALID"
    assert "use bf16 or fp32" in error["message"]
    assert [unit.kind for unit in database.units(job)] == ["inspect"]
