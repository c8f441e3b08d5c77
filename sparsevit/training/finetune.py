"""Fine-tuning of one config to convergence (paper, section 3.4)."""

from __future__ import annotations

from sparsevit.data.base import Dataset
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.tasks.base import TaskModel
from sparsevit.training.engine import Progress, Trainer
from sparsevit.training.plan import fixed
from sparsevit.training.settings import TrainingSettings


def finetune(
    model: TaskModel,
    dataset: Dataset,
    settings: TrainingSettings,
    sparsity: SparsityConfig,
    progress: Progress | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> None:
    """Trains `model` in place at one fixed config, which stays applied afterwards.

    The weights are new: a config measured with the old ones no longer applies to them.
    """
    Trainer(model, dataset, settings, fixed(sparsity), size).run(progress=progress)
