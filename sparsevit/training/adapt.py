"""Sparsity-aware adaptation: one set of weights that serves every config (paper, section 3.3)."""

from __future__ import annotations

from sparsevit.data.base import Dataset
from sparsevit.sparsity.config import DEFAULT_SCORE
from sparsevit.tasks.base import TaskModel
from sparsevit.training.engine import Progress, Trainer
from sparsevit.training.plan import adaptation
from sparsevit.training.settings import TrainingSettings


def adapt(
    model: TaskModel,
    dataset: Dataset,
    settings: TrainingSettings,
    score: str = DEFAULT_SCORE,
    progress: Progress | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> None:
    """Trains `model` in place with a fresh random config at every step; afterwards it is dense."""
    steps = settings.steps_over(len(dataset))
    plan = adaptation(model.backbone.config.pairs, score, settings.seed, steps)
    Trainer(model, dataset, settings, plan, size).run(progress=progress)
