"""Fine-tuning of one config to convergence (paper, section 3.4)."""

from __future__ import annotations

from sparsevit.data.base import Dataset
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.tasks.base import TaskModel
from sparsevit.training.loop import Progress, Schedule, train


def finetune(
    model: TaskModel,
    dataset: Dataset,
    schedule: Schedule,
    sparsity: SparsityConfig,
    progress: Progress | None = None,
) -> None:
    """Trains `model` in place at one fixed config, which stays applied afterwards.

    The weights are new: a config measured with the old ones no longer applies to them.
    """
    model.set_sparsity(sparsity)
    train(model, dataset, schedule, None, progress)
