"""The contract's table of bad inputs, second half: files that POST takes and whose jobs then fail.

Each row is a real job: submitted over HTTP, run by a real worker with a real device process. All of
them are run by the same one, and a sound job at the end shows that it lives on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from service.client import Client
from service.domain.specs import BUILTIN_DIGITS
from sparsevit.tasks.files import BUILTIN
from tests.service.api_server import Api
from tests.sparsevit.checkpoints.damage import Canary, header, small_state
from tests.sparsevit.data.layouts import (
    Layout,
    fits,
    huge_png,
    segmentation_folder,
    write_image,
    write_labels,
)
from tests.worker.conftest import WorkerProcess, environment_of_worker, worker_of_module

CANARY = "canary"


class Custom:
    """No tensor, and not of torch."""


def runs_a_command(folder: Path) -> Path:
    torch.save({"model": Canary(folder / CANARY)}, folder / "swin.pt")
    return folder / "swin.pt"


def custom_class(folder: Path) -> Path:
    torch.save({"model": Custom()}, folder / "swin.pt")
    return folder / "swin.pt"


def truncated_zip(folder: Path) -> Path:
    path = folder / "swin.pth"
    torch.save(small_state(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def endless_header(folder: Path) -> Path:
    return written(folder, header(2**63, b"{}"))


def overlapping_offsets(folder: Path) -> Path:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    body = json.dumps({"a": entry, "b": entry}).encode()
    return written(folder, header(len(body), body) + bytes(16))


def legacy_that_claims_gibibytes(folder: Path) -> Path:
    path = folder / "swin.pth"
    torch.save({"w": torch.zeros(300)}, path, _use_new_zipfile_serialization=False)
    # The number of elements, as pickle writes it, of the storage and of the tensor.
    claimed = (2**31 - 1).to_bytes(4, "little")
    content = path.read_bytes()
    assert b"M\x2c\x01" in content
    path.write_bytes(content.replace(b"M\x2c\x01", b"J" + claimed))
    return path


def deflate_bomb(folder: Path) -> Path:
    path = folder / "swin.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    return path


def very_many_tensors(folder: Path) -> Path:
    body = json.dumps({f"tensor{i}": {} for i in range(100_000)}).encode()
    return written(folder, header(len(body), body))


def written(folder: Path, content: bytes) -> Path:
    path = folder / "swin.safetensors"
    path.write_bytes(content)
    return path


def of_the_supernet(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """The shipped supernet with its first matrix changed."""
    path = folder / "swin.safetensors"
    with safe_open(BUILTIN[BUILTIN_DIGITS], "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, str(path), metadata)
    return path


def wrong_shapes(folder: Path) -> Path:
    return of_the_supernet(folder, lambda matrix: matrix[:-1])


def nan_weights(folder: Path) -> Path:
    return of_the_supernet(folder, lambda matrix: torch.full_like(matrix, torch.nan))


def resnet(folder: Path) -> Path:
    path = folder / "swin.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)}, str(path))
    return path


CHECKPOINTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "a pickle that runs os.system": ("CHECKPOINT_UNSAFE", runs_a_command),
    "a custom class": ("CHECKPOINT_UNSAFE", custom_class),
    "a truncated zip": ("CHECKPOINT_CORRUPT", truncated_zip),
    "a safetensors header length of 2^63": ("CHECKPOINT_CORRUPT", endless_header),
    "overlapping offsets": ("CHECKPOINT_CORRUPT", overlapping_offsets),
    "a tiny legacy file that claims GiBs": ("CHECKPOINT_TOO_LARGE", legacy_that_claims_gibibytes),
    "a deflate bomb": ("CHECKPOINT_TOO_LARGE", deflate_bomb),
    "a header of 100,000 tensors": ("CHECKPOINT_TOO_LARGE", very_many_tensors),
    "wrong shapes": ("CHECKPOINT_MISMATCH", wrong_shapes),
    "NaN weights": ("CHECKPOINT_MISMATCH", nan_weights),
    "a ResNet": ("CHECKPOINT_MISMATCH", resnet),
}


@dataclass(frozen=True)
class Spoiled:
    """A way to spoil a data set, and what its job says of it."""

    spoil: Callable[[Layout], None]
    says: str


def huge_image(data: Layout) -> None:
    data.image.write_bytes(huge_png())


def fits_as_jpg(data: Layout) -> None:
    data.image.write_bytes(fits())


def link_out(data: Layout) -> None:
    secret = data.root.parent / "secret.jpg"
    data.image.rename(secret)
    data.image.symlink_to(secret)


def empty(data: Layout) -> None:
    for file in data.root.rglob("*.*g"):
        file.unlink()


def label_out_of_range(data: Layout) -> None:
    for file in data.root.rglob("annotations/val/*.png"):
        write_labels(file, 200)


def truncated_images(data: Layout) -> None:
    for file in data.root.rglob("images/val/*.jpg"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])


def annotation_of_a_missing_file(data: Layout) -> None:
    data.image.unlink()


DATASETS = {
    "a 60,000 x 60,000 PNG": Spoiled(huge_image, "pixels"),
    "FITS named .jpg": Spoiled(fits_as_jpg, "cannot be read as JPEG or PNG"),
    "an inner symlink out": Spoiled(link_out, "is a link out of the data set"),
    "an empty set": Spoiled(empty, "no image"),
    "a label out of range": Spoiled(label_out_of_range, "the class 200"),
    "truncated images": Spoiled(truncated_images, "cannot be read"),
    "annotations that name missing files": Spoiled(
        annotation_of_a_missing_file, "an image that is not"
    ),
}


def dataset(folder: Path) -> Layout:
    """A sound set of a few images for the shipped supernet, in a folder layout."""
    data = segmentation_folder(folder / "set")
    for number in range(8):
        write_image(data.root / "images" / "val" / f"more-{number}.jpg", number)
        write_labels(data.root / "annotations" / "val" / f"more-{number}.png", 1)
    return data


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
