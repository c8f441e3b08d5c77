"""Model folders that are not what they should be, over HTTP: each ends in its error."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from service.client import Client, RemoteError
from tests.service.api_server import Api
from tests.sparsevit.checkpoints.damage import Canary
from tests.worker.conftest import WorkerProcess


@pytest.fixture(autouse=True)
def empty_tables() -> None:
    """The API keeps its own keys there."""


@pytest.fixture
def folder(api: Api, request: pytest.FixtureRequest) -> Path:
    folder = api.data / request.node.name
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "swin"}')
    return folder


def submitted(client: Client, folder: Path) -> str:
    body = {"checkpoint": str(folder), "dataset": "builtin:digits", "latency_budget": "60%"}
    return client.submit(body)["id"]


def error_of(client: Client, job_id: str) -> dict[str, Any]:
    for _ in client.watch(job_id, 0.1):
        pass
    shown = client.job(job_id)
    assert shown["status"] == "failed"
    assert shown["error"]["message"]
    return shown["error"]


def test_a_pickle_that_runs_a_command_is_not_opened(
    client: Client, trainer: WorkerProcess, folder: Path
) -> None:
    canary = folder.with_name("canary")
    torch.save({"model": Canary(canary)}, folder / "pytorch_model.bin")
    error = error_of(client, submitted(client, folder))
    assert error["code"] == "CHECKPOINT_UNSAFE"
    assert not canary.exists()
    assert trainer.process.poll() is None


def test_a_link_to_another_folder_is_not_followed(
    client: Client, trainer: WorkerProcess, folder: Path
) -> None:
    elsewhere = folder.with_name("elsewhere.safetensors")
    save_file({"x": torch.zeros(1)}, str(elsewhere))
    (folder / "model.safetensors").symlink_to(elsewhere)
    assert error_of(client, submitted(client, folder))["code"] == "CHECKPOINT_UNSAFE"
    assert trainer.process.poll() is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_changed_after_submission_is_refused(
    client: Client, trainer: WorkerProcess, folder: Path, name: str
) -> None:
    save_file({"x": torch.zeros(1)}, str(folder / "model.safetensors"))
    trainer.signal(signal.SIGSTOP)
    job_id = submitted(client, folder)
    with open(folder / name, "r+b") as file:  # in place: the folder itself does not change
        file.write(b"{ ")
    trainer.signal(signal.SIGCONT)
    error = error_of(client, job_id)
    assert error["code"] == "CHECKPOINT_MISMATCH"
    assert f"{name} changed after" in error["message"]


def test_what_could_hang_or_lead_out_is_refused_at_once(client: Client, folder: Path) -> None:
    file = folder / "pytorch_model.bin"
    for make in (lambda: os.mkfifo(file), lambda: file.symlink_to("/etc/passwd")):
        make()
        with pytest.raises(RemoteError) as caught:
            submitted(client, folder)
        assert caught.value.code == "PATH_NOT_ALLOWED"
        file.unlink()
