"""The contract's table of bad inputs, second half: files that POST takes and whose jobs then fail.

Each row is a real job: submitted over HTTP, run by a real worker with a real device process. All of
them are run by the same one, and a sound job at the end shows that it lives on.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.client import Client
from service.domain.specs import BUILTIN_DIGITS
from tests.service.api_server import Api
from tests.service.bad_files import CANARY, CHECKPOINTS, DATASETS, dataset, of_the_supernet
from tests.worker.conftest import WorkerProcess, environment_of_worker, worker_of_module

INPUT = {"height": 224, "width": 224, "threads": 1}
READ_AT_ONCE = {"expected_dense_metric": 0.5}
"""Makes the inspection read images, which else only a calibrated search does."""


@pytest.fixture(scope="module")
def worker(
    module_api: Api, database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """The one worker that all of these jobs are run by."""
    environment = environment_of_worker(database_url, redis_url, module_api.artefacts.root) | {
        "TEST_DEVICE": "clocked_device.py"
    }
    with worker_of_module(environment, tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest.fixture
def client(module_api: Api) -> Iterator[Client]:
    with Client(module_api.url, module_api.key) as client:
        yield client


@pytest.fixture
def folder(module_api: Api) -> Path:
    """A folder that POST allows."""
    return Path(tempfile.mkdtemp(dir=module_api.data))


@pytest.fixture
def bad_input(worker: WorkerProcess, record_property: Callable[[str, object], None]) -> None:
    """Counts, and sees to it that the worker is the same one as before."""
    record_property("bad inputs tried", 1)
    assert worker.process.poll() is None


def submitted(client: Client, **changes: Any) -> str:
    body = {"checkpoint": BUILTIN_DIGITS, "dataset": BUILTIN_DIGITS, "input": INPUT}
    budget = {} if "latency_budget_ms" in changes else {"latency_budget": "60%"}
    job_id: str = client.submit({**body, **budget, **changes})["id"]
    return job_id


def check_failed(client: Client, job_id: str, code: str, says: str = "") -> None:
    for _ in client.watch(job_id, 0.1):
        pass
    job = client.job(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", code), job["error"]
    assert says in job["error"]["message"]
    assert job["error"]["message"]
    (worker,) = client.workers()
    assert worker["online"]


@pytest.mark.parametrize("row", CHECKPOINTS)
def test_a_bad_checkpoint(client: Client, folder: Path, bad_input: None, row: str) -> None:
    code, make = CHECKPOINTS[row]
    check_failed(client, submitted(client, checkpoint=str(make(folder))), code)
    assert not (folder / CANARY).exists()


@pytest.mark.parametrize("row", DATASETS)
def test_a_bad_data_set(client: Client, folder: Path, bad_input: None, row: str) -> None:
    data = dataset(folder)
    DATASETS[row].spoil(data)
    asked = {"path": str(data.root), "format": "folder"}
    job_id = submitted(client, dataset=asked, preprocess=READ_AT_ONCE)
    check_failed(client, job_id, "DATASET_INVALID", DATASETS[row].says)


def test_a_checkpoint_that_changed_after_post(
    client: Client, folder: Path, bad_input: None, worker: WorkerProcess
) -> None:
    path = of_the_supernet(folder, lambda matrix: matrix)
    worker.signal(signal.SIGSTOP)
    job_id = submitted(client, checkpoint=str(path))
    of_the_supernet(folder, lambda matrix: matrix + 1)
    worker.signal(signal.SIGCONT)
    check_failed(client, job_id, "CHECKPOINT_MISMATCH", "changed after")


def test_a_data_set_that_changed_after_post(
    client: Client, folder: Path, bad_input: None, worker: WorkerProcess
) -> None:
    data = dataset(folder)
    worker.signal(signal.SIGSTOP)
    job_id = submitted(client, dataset={"path": str(data.root), "format": "folder"})
    os.rename(data.root / "images", data.root / "photographs")
    worker.signal(signal.SIGCONT)
    check_failed(client, job_id, "DATASET_INVALID", "changed after")


def exchange(path: Path, outside: Path) -> None:
    """Move what is at a path out of DATA_ROOTS and leave a link; size and time stay what they were."""
    shutil.move(path, outside / path.name)
    path.symlink_to(outside / path.name)


def test_a_checkpoint_that_became_a_link_after_post(
    client: Client, folder: Path, bad_input: None, worker: WorkerProcess, tmp_path: Path
) -> None:
    path = of_the_supernet(folder, lambda matrix: matrix)
    worker.signal(signal.SIGSTOP)
    job_id = submitted(client, checkpoint=str(path))
    exchange(path, tmp_path)
    worker.signal(signal.SIGCONT)
    check_failed(client, job_id, "CHECKPOINT_MISMATCH", "leads elsewhere now")


def test_a_data_set_that_became_a_link_after_post(
    client: Client, folder: Path, bad_input: None, worker: WorkerProcess, tmp_path: Path
) -> None:
    data = dataset(folder)
    worker.signal(signal.SIGSTOP)
    job_id = submitted(client, dataset={"path": str(data.root), "format": "folder"})
    exchange(data.root, tmp_path)
    worker.signal(signal.SIGCONT)
    check_failed(client, job_id, "DATASET_INVALID", "leads elsewhere now")


@pytest.mark.parametrize("what", ["", "images"])
def test_a_data_set_that_became_a_link_after_its_inspection(
    client: Client, folder: Path, bad_input: None, what: str, tmp_path: Path
) -> None:
    data = dataset(folder)
    asked = {"path": str(data.root), "format": "folder"}
    job_id = submitted(client, dataset=asked, latency_budget="90%")
    for job in client.watch(job_id, 0.1):
        if job["settled"] is not None:
            break
    exchange(data.root / what, tmp_path)
    says = "leads elsewhere now" if not what else "changed after"
    check_failed(client, job_id, "DATASET_INVALID", says)


def test_a_budget_out_of_reach_where_no_map_stood(client: Client, bad_input: None) -> None:
    job_id = submitted(client, latency_budget_ms=0.01)
    check_failed(client, job_id, "BUDGET_UNREACHABLE", "nearest possible budget")


def test_after_all_that_a_sound_job_is_taken_up(
    client: Client, folder: Path, worker: WorkerProcess
) -> None:
    data = dataset(folder)
    job_id = submitted(client, dataset={"path": str(data.root), "format": "folder"})
    for job in client.watch(job_id, 0.1):
        if job["settled"] is not None:
            break
    assert client.job(job_id)["settled"]["splits"]
    client.cancel(job_id)
    assert worker.process.poll() is None
