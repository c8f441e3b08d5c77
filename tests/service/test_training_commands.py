"""search --adapt --finetune, weights: against a real API, whose worker the test plays."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from service.db.artefacts import WEIGHTS_SUFFIX
from service.db.jobs import JobRepository
from service.db.session import session_scope
from tests.service.api_server import Api
from tests.service.conftest import Command
from tests.service.test_api_jobs import submit

SEARCH = ("search", "builtin:digits", "builtin:digits", "--latency", "60%")


def end(api: Api, job_id: str, source: str) -> bytes:
    """Lets a job succeed, with weights if it made them; what those are."""
    weights = f"weights of {job_id}".encode()
    digest = hashlib.sha256(weights).hexdigest()
    (api.data / "written").write_bytes(weights)
    api.artefacts.adopt(api.data / "written", digest, WEIGHTS_SUFFIX)
    facts = {"sha256": digest, "source": source}
    with session_scope(api.engine) as session:
        jobs = JobRepository(session)
        jobs.start(job_id)
        if source != "checkpoint":
            jobs.set_weights(job_id, facts)
        jobs.succeed(job_id, {"weights": facts})
    return weights


def test_training_options_are_posted(run: Command) -> None:
    options = ("--adapt", "default", "--finetune", "epochs=4,learning_rate=1e-5")
    options += ("--interpolation", "bicubic", "--expected-metric", "0.8")
    shown = run(*SEARCH, *options, "--json")
    assert shown.exit_code == 0, shown.output
    request = json.loads(shown.stdout)["request"]
    assert set(request["adapt"].values()) == {None}
    assert (
        request["finetune"].items() >= {"epochs": 4, "learning_rate": 1e-5, "steps": None}.items()
    )
    preprocess = {"interpolation": "bicubic", "expected_dense_metric": 0.8}
    assert request["preprocess"].items() >= preprocess.items()


def test_a_layout_and_a_split_are_posted(api: Api, run: Command) -> None:
    shown = run("search", "builtin:digits", str(api.data), "--latency", "60%",
                "--format", "folder", "--train-split", "train2", "--json")  # fmt: skip
    assert shown.exit_code == 0, shown.output
    asked = {"format": "folder", "train_split": "train2"}
    assert json.loads(shown.stdout)["request"]["dataset"].items() >= asked.items()


def test_what_a_setting_may_be_is_the_services_to_say(run: Command) -> None:
    refused = run(*SEARCH, "--adapt", "learning_rate=fast")
    assert refused.exit_code == 1
    assert "/adapt/learning_rate" in refused.stderr


def test_weights_are_written_to_a_file(api: Api, run: Command, tmp_path: Path) -> None:
    job_id, file = submit(api)["id"], tmp_path / "new" / "weights.safetensors"
    early = run("weights", job_id, "-o", str(file))
    assert early.exit_code == 1
    assert "not done" in early.stderr
    weights = end(api, job_id, "finetuned")
    assert run("weights", job_id, "-o", str(file)).exit_code == 0
    assert file.read_bytes() == weights
    (tmp_path / "file").touch()
    blocked = run("weights", job_id, "-o", str(tmp_path / "file" / "x"))
    assert (blocked.exit_code, "cannot write" in blocked.stderr) == (1, True)


@pytest.mark.parametrize(("source", "named"), [("adapted", True), ("checkpoint", False)])
def test_a_watch_ends_with_the_commands_that_fetch_the_files(
    api: Api, run: Command, source: str, named: bool
) -> None:
    job_id = submit(api)["id"]
    end(api, job_id, source)
    shown = run("watch", job_id)
    assert f"sparsevit config {job_id}" in shown.stderr
    assert (f"sparsevit weights {job_id}" in shown.stderr) == named
