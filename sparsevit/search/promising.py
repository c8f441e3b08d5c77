"""Which of many proposals promise to move the front most. Importable without torch.

By the surrogate a candidate adds an area to the front, if its metric is a little better than predicted.
They are chosen one after the other: what is chosen is taken to be as good as predicted, so that the
next one fills another gap. Most of them share the beginning of their network with one chosen before,
which the trie then computes once.
"""

from __future__ import annotations

import numpy as np

from sparsevit.search.history import Columns
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.pareto import leading_fronts, pareto_front
from sparsevit.search.surrogate import Surrogate

HOPE = 0.5
"""Standard deviations that are hoped for: what is little known is tried before what is known."""
TURNS = 3
SIBLING = 0.55
"""Of three proposals one may be anything; the next two cost no more than this share of a whole
forward, since they share the rest with one that is chosen. Free choice of all three finds as much for
two fifths more compute (decision 19)."""
LOOKED_AT = 32
MOST_ROWS = 192
"""Evaluations that the surrogate sees: one half from the leading fronts, one from all the others, so
that it knows what is poor, too."""


def most_promising(
    candidates: np.ndarray,
    latency_map: LatencyMap,
    scope: Scope,
    past: Columns,
    budget_ms: float,
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The `count` most promising of candidates uint8 [n, genes] within the budget, the best first.

    past: scored evaluations, two at least.
    """
    seen = past.where(_relevant(past, rng))
    mean, deviation = Surrogate(seen.genes, seen.metric).predict(candidates)
    hoped, ms = mean + HOPE * deviation, np.asarray(latency_map.predict(candidates, scope))
    within = past.where(past.latency_ms <= budget_ms)
    front = Front(within.latency_ms, within.metric, budget_ms, float(past.metric.min()))
    costs, gains = _Costs(candidates, latency_map), _Gains(front, ms, hoped)
    chosen: list[int] = []
    for number in range(min(count, len(candidates))):
        left = np.ones(len(candidates), bool)
        left[chosen] = False
        siblings = left & (costs.left <= SIBLING * costs.whole)
        best = gains.largest(siblings if number % TURNS and siblings.any() else left)
        chosen.append(best)
        front.add(ms[best], mean[best])
        costs.share(best)
    return candidates[chosen]


class _Gains:
    """What each candidate would add to a front that rises meanwhile: never more than it did before,
    so that only those with the largest gains of earlier are looked at again."""

    def __init__(self, front: Front, latency_ms: np.ndarray, metric: np.ndarray) -> None:
        self._front, self._ms, self._metric = front, latency_ms, metric
        self._known = front.gains(latency_ms, metric)

    def largest(self, among: np.ndarray) -> int:
        """The first of those with the largest gain; among: bool [n], not all False."""
        fresh = np.zeros(len(among), bool)
        while True:
            known = np.where(among, self._known, -np.inf)
            best = int(known.argmax())
            if fresh[best]:
                return best
            again = np.argpartition(-known, min(LOOKED_AT, len(known)) - 1)[:LOOKED_AT]
            again = np.append(again, best)
            self._known[again] = self._front.gains(self._ms[again], self._metric[again])
            fresh[again] = True


class _Costs:
    """What each candidate costs beside those that are taken, in ms by the map: what comes after the
    longest prefix it shares with one of them."""

    def __init__(self, genes: np.ndarray, latency_map: LatencyMap) -> None:
        self._genes = genes
        pairs = latency_map.table[np.arange(genes.shape[1]), genes]
        self._shared_ms = np.cumsum(np.pad(pairs, ((0, 0), (1, 0))), axis=1)
        self.whole = self._shared_ms[:, -1] + latency_map.fixed("model")
        self._shared = np.zeros(len(genes), np.int64)

    @property
    def left(self) -> np.ndarray:
        return self.whole - self._shared_ms[np.arange(len(self._genes)), self._shared]

    def share(self, taken: int) -> None:
        differs = np.ones((len(self._genes), self._genes.shape[1] + 1), bool)
        np.not_equal(self._genes, self._genes[taken], out=differs[:, :-1])
        self._shared = np.maximum(self._shared, differs.argmax(axis=1))


class Front:
    """The best metric within every latency up to a budget: steps that rise from `floor`."""

    def __init__(
        self, latency_ms: np.ndarray, metric: np.ndarray, budget_ms: float, floor: float
    ) -> None:
        self.budget_ms, self.floor = budget_ms, floor
        self._set(np.asarray(latency_ms, np.float64), np.asarray(metric, np.float64))

    def add(self, latency_ms: float, metric: float) -> None:
        self._set(np.append(self.ms, latency_ms), np.append(self.metric, metric))

    def gains(self, latency_ms: np.ndarray, metric: np.ndarray) -> np.ndarray:
        """Hypervolume that each config alone would add: float [n]."""
        # It adds what lies between it and the steps, up to the first one that is as high.
        at = np.searchsorted(self.metric, metric)
        ends = np.maximum(np.append(self.ms, self.budget_ms)[at], latency_ms)
        added = metric * (ends - latency_ms) - (self._area(ends) - self._area(latency_ms))
        return np.maximum(added, 0)

    def _set(self, latency_ms: np.ndarray, metric: np.ndarray) -> None:
        rows = pareto_front(np.column_stack((latency_ms, -metric)))
        rows = rows[metric[rows] > self.floor]
        self.ms, self.metric = latency_ms[rows], metric[rows]
        heights = self.metric[:-1] * np.diff(self.ms)
        self._before = np.concatenate(([0.0], np.cumsum(heights)))

    def _area(self, ms: np.ndarray) -> np.ndarray:
        """Below the steps, from the first of them on; before it, below the floor and negative."""
        if not len(self.ms):
            return self.floor * ms
        step = np.searchsorted(self.ms, ms, side="right") - 1
        within = self._before[step.clip(0)] + self.metric[step.clip(0)] * (
            ms - self.ms[step.clip(0)]
        )
        return np.where(step < 0, self.floor * (ms - self.ms[0]), within)


def _relevant(past: Columns, rng: np.random.Generator) -> np.ndarray:
    """Rows for the surrogate, whatever order the evaluations came in."""
    rows = np.lexsort((past.latency_ms, *past.genes.T))
    if len(rows) <= MOST_ROWS:
        return rows
    ordered = past.where(rows)
    objectives = np.column_stack((ordered.latency_ms, -ordered.metric))
    fronts = leading_fronts(objectives, MOST_ROWS // 2)
    leading = np.concatenate(fronts)[: MOST_ROWS // 2]
    others = np.delete(np.arange(len(rows)), leading)
    return rows[np.concatenate((leading, rng.permutation(others)[: MOST_ROWS - len(leading)]))]
