"""Survival, mutation and crossover: what evolution does with its history.

Pure functions with the random generator passed in. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsevit.search.history import Columns, History
from sparsevit.search.pareto import crowding_distance, leading_fronts
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes

SMALL_STEPS = 0.8
"""Share of the mutants whose genes move by one level."""

KEEP_PREFIX = 0.5
"""Share of the mutants that keep their parent's genes up to a random place."""


@dataclass(frozen=True)
class Dropped:
    """What was known of a candidate when racing dropped it (racing.py). metric: on the first
    `images` images. interval: where it would lie on all of them, with 95% confidence."""

    metric: float
    interval: tuple[float, float]
    images: int


@dataclass(frozen=True)
class Evaluation:
    """One ended evaluation. metric: higher is better; NaN where it failed or was dropped (it is
    then never a parent, and never proposed again). latency_ms: predicted by the map."""

    genes: Genes
    generation: int
    metric: float
    latency_ms: float
    dropped: Dropped | None = None


def select_parents(past: Sequence[Evaluation], budget_ms: float, count: int) -> np.ndarray:
    """The genes of the survivors, at most `count` of the scored evaluations: uint8 [n, genes].

    The better half by metric within the budget, the others by constrained rank and crowding:
    within the budget first, then by the smallest excess over it.
    """
    columns = History.of(past).columns
    if columns is None:
        return np.empty((0, 0), np.uint8)
    return columns.genes[_survivors(columns, budget_ms, count)]


def _survivors(columns: Columns, budget_ms: float, count: int) -> list[int]:
    """Rows of the survivors. Sorted in full are only the few that can be among them."""
    scored = np.isfinite(columns.metric)
    within = columns.latency_ms <= budget_ms
    chosen = _best(columns, np.flatnonzero(scored & within), (count + 1) // 2)
    taken = set(chosen)
    ranked = _by_rank(columns, np.flatnonzero(scored & within), count)
    chosen += [row for row in ranked if row not in taken][: count - len(chosen)]
    beyond = np.flatnonzero(scored & ~within)
    nearest = _ordered(columns, beyond, columns.latency_ms)
    return chosen + nearest[: count - len(chosen)].tolist()


def _best(columns: Columns, rows: np.ndarray, count: int) -> list[int]:
    """The `count` best of rows by metric, the best first."""
    if len(rows) > count:
        metric = columns.metric[rows]
        rows = rows[metric >= np.partition(metric, -count)[-count]]
    return _ordered(columns, rows, -columns.metric)[:count].tolist()


def _by_rank(columns: Columns, rows: np.ndarray, count: int) -> list[int]:
    """At least `count` of rows (all, where there are fewer), best rank first, the least crowded
    first within a rank."""
    objectives = np.stack((-columns.metric, columns.latency_ms), axis=1)
    ranked: list[int] = []
    for front in leading_fronts(objectives[rows], count):
        ordered = _ordered(columns, rows[front], -columns.metric)
        crowding = crowding_distance(objectives[ordered])
        ranked += ordered[np.argsort(-crowding, kind="stable")].tolist()
    return ranked


def _ordered(columns: Columns, rows: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Rows by rising `first`, then the best first: no tie is broken by the order in which results
    came in."""
    keys = (first, -columns.metric, columns.latency_ms, *columns.genes.T)
    return rows[np.lexsort([key[rows] for key in reversed(keys)])]


def mutate(
    space: SearchSpace,
    rng: np.random.Generator,
    parents: np.ndarray,
    probability: float,
    n: int,
) -> np.ndarray:
    """n mutants of random parents: uint8 [n, genes].

    Each gene moves to another level with the given probability, and at least one does; sorting
    within the stages repairs the mutant. Half of the mutants keep their parent's genes up to a random
    place: they share long prefixes in the trie. All of them doing so would find fewer of the changes
    that an early and a late gene make together. Most mutants move by one level: the metric is smooth
    in the levels, and near the budget a large move is nearly always infeasible or a loss. The paper
    draws any level; the others do so here, to leave a local optimum.
    """
    rows = parents[rng.integers(len(parents), size=n)]
    genes = rows.shape[1]
    start = np.where(rng.random(n) < KEEP_PREFIX, rng.integers(genes, size=n), 0)
    changes = (rng.random(rows.shape) < probability) & (np.arange(genes) >= start[:, None])
    changes[np.arange(n), rng.integers(start, genes)] |= ~changes.any(axis=1)
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
    """n children of two random parents each: uint8 [n, genes].

    The first genes, up to a random place, are the mother's, the others the father's: children share
    whole prefixes, which the trie computes once, and what was found to go together stays together.
    The place is the later of two random ones, for longer prefixes. Within the stage that is cut a
    gene of the father is raised to the mother's last one: sorting would break the prefix. The paper
    takes every gene from either parent at even odds, and sorts.
    """
    mothers, fathers = parents[rng.integers(len(parents), size=(2, n))]
    genes = parents.shape[1]
    cut = rng.integers(1, max(2, genes), size=(2, n, 1)).max(axis=0)
    children = np.where(np.arange(genes) < cut, mothers, fathers)
    for stage in space.stage_slices:
        children[:, stage] = np.maximum.accumulate(children[:, stage], axis=1)
    return children
