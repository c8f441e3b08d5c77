"""Survival, mutation and crossover: what evolution does with its history.

Pure functions with the random generator passed in. Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsevit.search.pareto import crowding_distance, non_dominated_sort
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes

SMALL_STEPS = 0.8
"""Share of the mutants whose genes move by one level."""


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation. metric: higher is better; NaN where the evaluation failed (it is
    then never a parent, and never proposed again). latency_ms: predicted by the map."""

    genes: Genes
    generation: int
    metric: float
    latency_ms: float


def select_parents(past: Sequence[Evaluation], budget_ms: float, count: int) -> np.ndarray:
    """The survivors among the scored evaluations: uint8 [<= count, genes].

    The better half by metric within the budget, the others by constrained rank and crowding:
    within the budget first, then by the smallest excess over it.
    """
    scored = [e for e in past if math.isfinite(e.metric)]
    # The best first, so that no tie is broken by the order in which results came in.
    scored.sort(key=lambda e: (-e.metric, e.latency_ms, e.genes))
    within = [e for e in scored if e.latency_ms <= budget_ms]
    beyond = [e for e in scored if e.latency_ms > budget_ms]
    chosen = list(range(min(len(within), (count + 1) // 2)))
    taken = set(chosen)
    chosen += [i for i in _by_rank(within, count) if i not in taken][: count - len(chosen)]
    parents = [within[i] for i in chosen]
    beyond.sort(key=lambda e: e.latency_ms)
    parents += beyond[: count - len(parents)]
    return np.array([e.genes for e in parents], np.uint8)


def _by_rank(evaluations: Sequence[Evaluation], count: int) -> list[int]:
    """Indices of at least `count` evaluations (all, where there are fewer), best rank first, the
    least crowded first within a rank."""
    objectives = np.array([(-e.metric, e.latency_ms) for e in evaluations]).reshape(-1, 2)
    ranks = non_dominated_sort(objectives)
    ordered: list[int] = []
    rank = 0
    while len(ordered) < min(count, len(evaluations)):
        front = np.flatnonzero(ranks == rank)
        crowding = crowding_distance(objectives[front])
        ordered += front[np.argsort(-crowding, kind="stable")].tolist()
        rank += 1
    return ordered


def mutate(
    space: SearchSpace,
    rng: np.random.Generator,
    parents: np.ndarray,
    probability: float,
    n: int,
) -> np.ndarray:
    """n mutants of random parents: uint8 [n, genes].

    Each gene moves to another level with the given probability, and at least one does; sorting
    within the stages repairs the mutant. Most mutants move by one level: the metric is smooth in
    the levels, and near the budget a large move is nearly always infeasible or a loss. The paper
    draws any level; the others do so here, to leave a local optimum.
    """
    rows = parents[rng.integers(len(parents), size=n)]
    changes = rng.random(rows.shape) < probability
    changes[np.arange(n), rng.integers(rows.shape[1], size=n)] |= ~changes.any(axis=1)
    levels = np.array(space.levels, np.uint8)
    last = len(levels) - 1
    places = np.searchsorted(levels, rows).clip(0, last)
    up = (rng.random(rows.shape) < 0.5) & (places < last) | (places == 0)
    near = (places + np.where(up, 1, -1)).clip(0, last)
    anywhere = (places + rng.integers(1, max(2, last + 1), size=rows.shape)) % (last + 1)
    steps = rng.random((n, 1)) < SMALL_STEPS
    return space.repair(np.where(changes, levels[np.where(steps, near, anywhere)], rows))


def crossover(
    space: SearchSpace, rng: np.random.Generator, parents: np.ndarray, n: int
) -> np.ndarray:
    """n children, each gene from one of two random parents at even odds, repaired by sorting
    within the stages: uint8 [n, genes]."""
    mothers, fathers = parents[rng.integers(len(parents), size=(2, n))]
    return space.repair(np.where(rng.random(mothers.shape) < 0.5, mothers, fathers))
