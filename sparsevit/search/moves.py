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
    """The genes of the survivors: uint8 [<= count, genes]."""
    return np.array([e.genes for e in survivors(past, budget_ms, count)], np.uint8)


def survivors(past: Sequence[Evaluation], budget_ms: float, count: int) -> list[Evaluation]:
    """At most `count` of the scored evaluations.

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
    return parents


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

    A mutant keeps its parent's genes up to a random place, so that mutants of one parent share long
    prefixes in the trie. Of the genes behind it as many change on average as if each of all genes
    had changed with the given probability, and at least one does; sorting within the stages repairs
    the mutant. Most mutants move by one level: the metric is smooth in the levels, and near the
    budget a large move is nearly always infeasible or a loss. The paper draws any level; the others
    do so here, to leave a local optimum.
    """
    rows = parents[rng.integers(len(parents), size=n)]
    genes = rows.shape[1]
    start = rng.integers(genes, size=(n, 1))
    behind = np.arange(genes) >= start
    changes = (rng.random(rows.shape) < probability * genes / (genes - start)) & behind
    changes[np.arange(n), rng.integers(start[:, 0], genes)] |= ~changes.any(axis=1)
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
    Within the stage that is cut a gene of the father is raised to the mother's last one: sorting
    would break the prefix. The paper takes every gene from either parent at even odds, and sorts.
    """
    mothers, fathers = parents[rng.integers(len(parents), size=(2, n))]
    genes = parents.shape[1]
    cut = rng.integers(1, max(2, genes), size=(n, 1))
    children = np.where(np.arange(genes) < cut, mothers, fathers)
    for stage in space.stage_slices:
        children[:, stage] = np.maximum.accumulate(children[:, stage], axis=1)
    return children
