"""Which config each step of a training trains, and what the model is when it is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sparsevit.sparsity.config import MAX_LEVEL, SparsityConfig, split_genes

CONFIGS = 1  # second number of the seed; the others are in stream.py and engine.py


@dataclass(frozen=True)
class ConfigPlan:
    """config(step): what is applied before a step. final: what stays applied. adapted: the score
    that the weights are adapted to from then on, or None where that does not change."""

    config: Callable[[int], SparsityConfig]
    final: SparsityConfig
    adapted: str | None = None


def adaptation(pairs: Sequence[int], score: str, seed: int, steps: int) -> ConfigPlan:
    """A fresh config at every step, dense in the end (paper, section 3.3).

    Each stage's ratios are drawn uniformly from {0, .1, ..., .8} and sorted, as in the paper.
    """
    rng = np.random.default_rng([seed, CONFIGS])
    table = rng.integers(0, MAX_LEVEL + 1, (steps, sum(pairs))).astype(np.int8)

    def config(step: int) -> SparsityConfig:
        stages = split_genes(tuple(table[step].tolist()), pairs)
        genes = [level for stage in stages for level in sorted(stage)]
        return SparsityConfig.from_genes(genes, pairs, score)

    return ConfigPlan(config, SparsityConfig.dense(pairs), score)


def fixed(sparsity: SparsityConfig) -> ConfigPlan:
    """The same config at every step and afterwards."""
    return ConfigPlan(lambda step: sparsity, sparsity)
