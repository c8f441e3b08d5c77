"""FeasibleSet: the configs of a space that the latency map predicts within a budget, never listed.

A latency is a sum over stages, so the stages are cut into two halves, the widest stage and the
product of the others. With the widest sorted by ms, one binary search per row of the others finds
how many partners fit the budget: counting, the exact range and uniform sampling cost milliseconds
for the 17,721,990 configs of Swin-S/B/L, however few of them are feasible. Configs that keep the
same windows count once. Importable without torch.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np

from sparsevit.errors import ConfigError
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.space import SearchSpace

MAX_REST = 50_000_000


class FeasibleSet:
    """The distinct configs predicted within `budget_ms`.

    count: how many they are, of `size` distinct configs. min_ms, max_ms: the exact predicted range
    of the whole space; min_ms is the nearest possible budget where count is 0.
    Raises ConfigError where the map does not cover the space.
    """

    def __init__(
        self,
        space: SearchSpace,
        latency_map: LatencyMap,
        budget_ms: float,
        scope: Scope = "model",
    ) -> None:
        self.space, self.latency_map = space, latency_map
        self.budget_ms, self.scope = float(budget_ms), scope
        self._configs = space.stage_configs(distinct=True)
        costs = latency_map.stage_ms(space, self._configs)
        self._wide = int(np.argmax([len(c) for c in costs]))
        rest = [c for stage, c in enumerate(costs) if stage != self._wide]
        self._rest_shape = tuple(len(c) for c in rest)
        if math.prod(self._rest_shape) > MAX_REST:
            raise ConfigError("the space is too large to filter by latency; allow fewer levels.")
        # With no other stage the rest is one row of no genes that costs nothing.
        self._rest_ms = reduce(lambda a, b: np.add.outer(a, b).reshape(-1), rest, np.zeros(1))
        self._rest_ms += latency_map.fixed(scope)
        self._order = np.argsort(costs[self._wide], kind="stable")
        self._wide_ms = costs[self._wide][self._order]
        self._partners = self._partners_up_to(budget_ms)

    @property
    def size(self) -> int:
        return self.space.distinct_size

    @property
    def count(self) -> int:
        return int(self._partners.sum())

    def count_within(self, ms: float) -> int:
        """Distinct configs predicted within `ms`, whatever the budget."""
        return int(self._partners_up_to(ms).sum())

    @property
    def min_ms(self) -> float:
        return float(self._rest_ms.min() + self._wide_ms[0])

    @property
    def max_ms(self) -> float:
        return float(self._rest_ms.max() + self._wide_ms[-1])

    def summary(self) -> dict[str, Any]:
        """What a user wants to know before a search: JSON, latencies in ms."""
        return {
            "budget_ms": self.budget_ms,
            "scope": self.scope,
            "min_ms": self.min_ms,
            "max_ms": self.max_ms,
            "configs": self.size,
            "feasible": self.count,
            "feasible_share": self.count / self.size,
        }

    def sample(
        self,
        rng: np.random.Generator,
        n: int,
        *,
        above_ms: float = -math.inf,
        up_to_ms: float = math.inf,
    ) -> np.ndarray:
        """Up to n configs: uint8 [<= n, genes], uniform, with replacement, over the feasible
        configs with above_ms < predicted ms <= up_to_ms. Empty where there are none."""
        partners = np.minimum(self._partners, self._partners_up_to(up_to_ms))
        ends = np.cumsum(np.maximum(partners - self._partners_up_to(above_ms), 0))
        if not ends[-1]:
            return np.empty((0, self.space.gene_count), np.uint8)
        draws = rng.integers(ends[-1], size=n)
        rest = np.searchsorted(ends, draws, side="right")
        from_end = ends[rest] - draws
        return self._rows(rest, partners[rest] - from_end)

    def enumerate(self) -> np.ndarray:
        """All feasible configs: uint8 [about count, genes], in an order the arguments determine."""
        rest = np.repeat(np.arange(len(self._partners)), self._partners)
        starts = np.cumsum(self._partners) - self._partners
        return self._rows(rest, np.arange(len(rest)) - starts[rest])

    def _partners_up_to(self, ms: float) -> np.ndarray:
        """For every row of the rest, how many configs of the widest stage stay within `ms`."""
        return np.searchsorted(self._wide_ms, ms - self._rest_ms, side="right")

    def _rows(self, rest: np.ndarray, wide: np.ndarray) -> np.ndarray:
        places = list(np.unravel_index(rest, self._rest_shape)) if self._rest_shape else []
        places.insert(self._wide, self._order[wide])
        stages = [rows[at] for rows, at in zip(self._configs, places, strict=True)]
        genes = np.concatenate(stages, axis=1)
        # The halves are summed in another order than a prediction: the prediction has the last
        # word on a config that meets the budget to the last bit.
        return genes[self.latency_map.feasible(genes, self.budget_ms, self.scope)]
