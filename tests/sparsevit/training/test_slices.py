from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsevit.errors import CheckpointCorrupt, CheckpointUnsafe, ConfigError
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.training.adapt import adapt
from sparsevit.training.finetune import finetune
from sparsevit.training.plan import adaptation
from sparsevit.training.slices import Slice, train_slice
from tests.sparsevit.checkpoints.damage import Canary
from tests.sparsevit.training.program import SAVED_EVERY, STEPS, undisturbed
from tests.sparsevit.training.small import SETTINGS, SIZE, Canvases, digest, small_model

SPARSITY = SparsityConfig(((0.5,), (0.8,)), "l2")


def slice_of(model, checkpoint: Path, kind: str = "adapt", **changed) -> Slice:
    settings = changed.pop("settings", SETTINGS)
    dataset = changed.pop("dataset", Canvases())
    sparsity = SPARSITY if kind == "finetune" else None
    options = {"score": "l2", "sparsity": sparsity, "size": SIZE} | changed
    return train_slice(model, dataset, kind, settings, checkpoint=checkpoint, **options)


@pytest.mark.parametrize("kind", ["adapt", "finetune"])
def test_slices_of_one_step_give_the_weights_of_one_piece(kind: str, tmp_path: Path) -> None:
    whole = small_model(dropout=0.3)
    if kind == "adapt":
        adapt(whole, Canvases(), SETTINGS, "l2", size=SIZE)
    else:
        finetune(whole, Canvases(), SETTINGS, SPARSITY, size=SIZE)
    seen = []
    while not seen or not seen[-1].done:
        model = small_model(dropout=0.3)  # as another process would begin
        torch.manual_seed(len(seen))  # whatever else was drawn there
        seen.append(slice_of(model, tmp_path / "training.pt", kind, seconds=0.0))
    assert [one.step for one in seen] == list(range(1, SETTINGS.steps + 1))
    assert digest(model) == digest(whole)
    assert not model.training
    assert model.weights_sha256 is None
    if kind == "adapt":
        assert model.adapted == "l2"
        assert model.backbone.sparsity.is_dense
    else:
        assert model.adapted is None
        assert model.backbone.sparsity == SPARSITY


def test_a_slice_ends_where_it_is_told_to(tmp_path: Path) -> None:
    answers = iter([False, True])
    made = slice_of(small_model(), tmp_path / "training.pt", enough=lambda: next(answers))
    assert (made.step, made.done) == (2, False)
    assert slice_of(small_model(), tmp_path / "training.pt", enough=lambda: True).step == 3


def test_a_training_that_is_done_is_not_begun_again(tmp_path: Path) -> None:
    first, again = small_model(), small_model()
    done = slice_of(first, tmp_path / "training.pt")
    written = (tmp_path / "training.pt").stat().st_mtime_ns
    assert slice_of(again, tmp_path / "training.pt") == done
    assert (tmp_path / "training.pt").stat().st_mtime_ns == written
    assert digest(again) == digest(first)
    assert again.adapted == "l2"
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]


def run_program(checkpoint: Path, steps: int | None) -> list[str]:
    """What it says; after this many steps it is killed, at once and for good."""
    command = [sys.executable, "-m", "tests.sparsevit.training.program", str(checkpoint)]
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        for line in program.stdout:
            said.append(line.strip())
            if len(said) == steps:
                os.kill(program.pid, signal.SIGKILL)
                break
        code = program.wait()
    assert code == (0 if steps is None else -signal.SIGKILL)
    return said


def test_a_training_killed_twice_ends_with_the_same_weights(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.pt"
    first = run_program(checkpoint, 6)
    second = run_program(checkpoint, 9)
    last = run_program(checkpoint, None)
    begins = [int(said[0].split()[-1]) for said in (first, second, last)]
    assert begins[0] == 0 < begins[1] < begins[2] < STEPS.steps
    assert all(begin % SAVED_EVERY == 0 for begin in begins)
    assert last[-1] == undisturbed(tmp_path / "other.pt")
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


def test_a_file_half_written_by_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".training.pt.part").write_bytes(b"half")
    slice_of(small_model(), tmp_path / "training.pt", seconds=0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"settings": replace(SETTINGS, seed=6)}, "settings"),
        ({"dataset": Canvases(5)}, "images"),
        ({"kind": "finetune"}, "kind"),
        ({"score": "variance"}, "score"),
        ({"size": (84, 84)}, "size"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    changed: dict, named: str, tmp_path: Path
) -> None:
    slice_of(small_model(), tmp_path / "training.pt", seconds=0.0)
    with pytest.raises(ConfigError, match=f"another training: its {named} was"):
        slice_of(small_model(), tmp_path / "training.pt", **changed)


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    model = small_model()
    model.weights_sha256 = "a" * 64
    slice_of(model, tmp_path / "training.pt", seconds=0.0)
    model.weights_sha256 = "b" * 64
    with pytest.raises(ConfigError, match="its weights was"):
        slice_of(model, tmp_path / "training.pt")


def test_reading_threads_do_not_matter(tmp_path: Path) -> None:
    one, many = small_model(), small_model()
    slice_of(one, tmp_path / "training.pt", seconds=0.0, settings=replace(SETTINGS, threads=1))
    slice_of(one, tmp_path / "training.pt", settings=replace(SETTINGS, threads=4))
    slice_of(many, tmp_path / "other.pt", settings=replace(SETTINGS, threads=3))
    assert digest(one) == digest(many)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    canary = Canary(tmp_path / "canary")
    torch.save({"format": "sparsevit-training-1", "state": canary}, tmp_path / "training.pt")
    with pytest.raises(CheckpointUnsafe):
        slice_of(small_model(), tmp_path / "training.pt")
    (tmp_path / "training.pt").write_bytes(pickle.dumps(canary))
    with pytest.raises((CheckpointUnsafe, CheckpointCorrupt)):
        slice_of(small_model(), tmp_path / "training.pt")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 nonsense"])
def test_a_damaged_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "training.pt").write_bytes(content)
    with pytest.raises((CheckpointCorrupt, CheckpointUnsafe)):
        slice_of(small_model(), tmp_path / "training.pt")


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of adapt, finetune"):
        slice_of(small_model(), tmp_path / "training.pt", "train")
    with pytest.raises(ConfigError, match="needs a sparsity config"):
        slice_of(small_model(), tmp_path / "training.pt", "finetune", sparsity=None)
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        slice_of(small_model(), tmp_path / "x.pt", settings=replace(SETTINGS, precision="fp16"))
    assert not list(tmp_path.iterdir())


def test_configs_are_drawn_as_they_always_were() -> None:
    """One draw after the other from the generator of [seed, 1], stage by stage."""
    pairs, rng = (1, 1, 3, 1), np.random.default_rng([7, 1])
    plan = adaptation(pairs, "l2", 7, 50)
    for step in range(50):
        stages = [sorted(rng.integers(0, 9, count).tolist()) for count in pairs]
        assert plan.config(step).levels == tuple(map(tuple, stages))
