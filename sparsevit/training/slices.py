"""Adaptation and fine-tuning in slices: each ends with a checkpoint from which the next goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsevit.data.base import Dataset
from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.tasks.base import TaskModel
from sparsevit.training.checkpoint import read_checkpoint, write_checkpoint
from sparsevit.training.engine import Trainer
from sparsevit.training.plan import ConfigPlan, adaptation, fixed
from sparsevit.training.settings import KINDS, TrainingSettings


@dataclass(frozen=True)
class Slice:
    """Where a training stands: optimiser steps done, of how many, and the recent mean loss."""

    step: int
    steps: int
    loss: float
    done: bool


def train_slice(
    model: TaskModel,
    dataset: Dataset,
    kind: str,
    settings: TrainingSettings,
    *,
    score: str,
    sparsity: SparsityConfig | None = None,
    size: tuple[int, int] | None = None,
    checkpoint: Path,
    seconds: float | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    enough: Callable[[], bool] | None = None,
) -> Slice:
    """Trains from `checkpoint`, where that file is, to the end or until `seconds` are over (one step
    at least), or `enough`, asked after every step, says so, and writes the checkpoint anew.

    kind: "adapt", a fresh config ranked by `score` at every step; "finetune", all at `sparsity`.
    Once done the model has its final weights, in eval mode: adapted ones are dense.
    Interrupted anywhere and called again it ends with the same weights, bit for bit on a CPU.
    Raises ConfigError where the checkpoint is of another training, or the loss diverges.
    """
    trainer = SlicedTraining(model, dataset, kind, settings, score, sparsity, size, checkpoint)
    return trainer.run(seconds=seconds, progress=progress, enough=enough)


class SlicedTraining:
    """A training with a checkpoint; arguments as of `train_slice`. `run` it slice by slice."""

    def __init__(
        self,
        model: TaskModel,
        dataset: Dataset,
        kind: str,
        settings: TrainingSettings,
        score: str,
        sparsity: SparsityConfig | None,
        size: tuple[int, int] | None,
        checkpoint: Path,
    ) -> None:
        self.checkpoint = Path(checkpoint)
        self.facts = _facts(model, dataset, kind, settings, score, sparsity, size)
        steps = settings.steps_over(len(dataset))
        plan = _plan(model, kind, settings, score, sparsity, steps)
        self.trainer = Trainer(model, dataset, settings, plan, size)
        if self.checkpoint.exists():
            self.trainer.restore(read_checkpoint(self.checkpoint, self.facts))

    def run(
        self,
        seconds: float | None = None,
        until: int | None = None,
        progress: Callable[[int, int, float], None] | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> Slice:
        """One slice: until `seconds` are over, up to a step, until `enough`, or to the end."""
        trainer, before = self.trainer, self.trainer.step
        trainer.run(seconds, until, progress, enough)
        if trainer.processes.first and (trainer.step > before or not self.checkpoint.exists()):
            write_checkpoint(self.checkpoint, trainer.state(), self.facts)
        trainer.processes.wait()
        return Slice(trainer.step, trainer.steps, trainer.loss, trainer.done)


def _plan(
    model: TaskModel,
    kind: str,
    settings: TrainingSettings,
    score: str,
    sparsity: SparsityConfig | None,
    steps: int,
) -> ConfigPlan:
    if kind not in KINDS:
        raise ConfigError(f"a training is one of {', '.join(KINDS)}, not {kind!r}.")
    if kind == "adapt":
        return adaptation(model.backbone.config.pairs, score, settings.seed, steps)
    if sparsity is None:
        raise ConfigError("fine-tuning needs a sparsity config.")
    return fixed(sparsity)


def _facts(
    model: TaskModel,
    dataset: Dataset,
    kind: str,
    settings: TrainingSettings,
    score: str,
    sparsity: SparsityConfig | None,
    size: tuple[int, int] | None,
) -> dict[str, Any]:
    """What the weights depend on, as far as it can be told: JSON."""
    settled = settings.to_dict()
    del settled["threads"]
    return {
        "kind": kind,
        "settings": settled,
        "images": len(dataset),
        "score": score if kind == "adapt" else None,
        "sparsity": None if sparsity is None else sparsity.to_dict(),
        "size": size,
        "preprocess": model.preprocess.to_dict(),
        "architecture": model.backbone.config.to_dict(),
        "weights": model.weights_sha256,
    }
