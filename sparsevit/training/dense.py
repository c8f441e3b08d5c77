"""Training as the model is: dense, or at whatever config is applied."""

from __future__ import annotations

from sparsevit.data.base import Dataset
from sparsevit.tasks.base import TaskModel
from sparsevit.training.engine import Progress, Trainer
from sparsevit.training.settings import TrainingSettings


def train(
    model: TaskModel,
    dataset: Dataset,
    settings: TrainingSettings,
    progress: Progress | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> None:
    """Trains `model` in place; the same seed, data and thread count give the same weights.

    The weights are new: a config measured with the old ones no longer applies to them.
    """
    Trainer(model, dataset, settings, None, size).run(progress=progress)
