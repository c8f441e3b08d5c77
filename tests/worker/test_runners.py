"""What the device process runs, on sessions that load nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sparsevit.errors import CheckpointMismatch, DatasetError
from sparsevit.search import steps
from sparsevit.search.choices import SETTLED_BY_INSPECTION
from tests.worker import rows
from worker.requests import session_arguments
from worker.runners import RUNNERS, SessionWork

INSPECTION = rows.INSPECTION
BUILTIN = {"checkpoint": None, "dataset": None}


class FakeSession:
    """Takes the arguments of a real one; weights and data have the hashes of `rows.INSPECTION`."""

    def __init__(self, *, checkpoint: str, dataset: Any, device: str, **settled: Any) -> None:
        assert set(settled) == set(SETTLED_BY_INSPECTION)
        self.model = SimpleNamespace(weights_sha256="c" * 64)

    def dataset_sha256(self) -> str:
        return "d" * 64

    def training_sha256(self) -> str:
        return "f" * 64


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "Session", FakeSession)
    for kind in RUNNERS:
        monkeypatch.setitem(RUNNERS, kind, lambda *_, kind=kind: {"ran": kind})


def run(kind: str, **changes: Any) -> dict[str, Any]:
    arguments = session_arguments(rows.request(), BUILTIN, INSPECTION | changes)
    request = {"kind": kind, "session": arguments, "payload": {}}
    return SessionWork("cpu").run(request, lambda done, total: None)


@pytest.mark.parametrize("kind", ["calibrate", "evaluate", "measure"])
def test_what_was_inspected_is_run_on(kind: str) -> None:
    assert run(kind) == {"ran": kind}


@pytest.mark.parametrize("kind", ["calibrate", "evaluate", "measure"])
def test_other_weights_than_the_inspected_ones_are_refused(kind: str) -> None:
    with pytest.raises(CheckpointMismatch, match="changed after the job was inspected"):
        run(kind, checkpoint_sha256="e" * 64)


def test_nothing_is_measured_on_other_data_than_the_inspected() -> None:
    with pytest.raises(DatasetError, match="changed after the job was inspected"):
        run("measure", dataset_sha256="e" * 64)


@pytest.mark.parametrize("kind", ["adapt", "finetune"])
def test_nothing_is_trained_on_other_data_than_the_inspected(kind: str) -> None:
    assert run(kind, training_sha256="f" * 64) == {"ran": kind}
    with pytest.raises(DatasetError, match="training split changed after the job was inspected"):
        run(kind, training_sha256="e" * 64)
