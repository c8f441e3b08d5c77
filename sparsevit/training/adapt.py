"""Sparsity-aware adaptation: one set of weights that serves every config (paper, section 3.3)."""

from __future__ import annotations

import numpy as np

from sparsevit.data.base import Dataset
from sparsevit.sparsity.config import DEFAULT_SCORE, MAX_LEVEL, SparsityConfig
from sparsevit.tasks.base import TaskModel
from sparsevit.training.loop import Progress, Schedule, train

# The released code adapts for 12 epochs at 1e-5 from a dense task checkpoint.
RELEASED_LEARNING_RATE = 1e-5


def adapt(
    model: TaskModel,
    dataset: Dataset,
    schedule: Schedule,
    score: str = DEFAULT_SCORE,
    progress: Progress | None = None,
) -> None:
    """Trains `model` in place with a fresh random config at every step; afterwards it is dense.

    Each stage's ratios are drawn uniformly from {0, .1, ..., .8} and sorted, as in the paper.
    """
    pairs = model.backbone.config.pairs
    rng = np.random.default_rng([schedule.seed, 1])

    def draw(step: int) -> None:
        stages = [sorted(rng.integers(0, MAX_LEVEL + 1, count).tolist()) for count in pairs]
        genes = [level for stage in stages for level in stage]
        model.set_sparsity(SparsityConfig.from_genes(genes, pairs, score))

    train(model, dataset, schedule, draw, progress)
    model.set_sparsity(SparsityConfig.dense(pairs))
    model.adapted = score
