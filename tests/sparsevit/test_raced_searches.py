"""Searches of a made-up network with and without racing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit import metrics
from sparsevit.search import racing
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.generations import Evaluator, search
from sparsevit.search.history import History
from sparsevit.search.moves import Evaluation
from sparsevit.sparsity.config import Genes
from tests.sparsevit.maps import TINY, linear_map
from tests.sparsevit.test_racing import TOP1, answers


class Table:
    """A made-up network: which images a config gets right. Genes that save alike cost unlike."""

    def __init__(self, seed: int, images: int = 640) -> None:
        self.images, self.shards = images, images // 16
        self._seed, self._known = seed, {}
        self._hard = np.random.default_rng(seed).normal(0, 2, images)
        self.paid = 0

    def right(self, genes: Genes) -> np.ndarray:
        if genes not in self._known:
            rng = np.random.default_rng([self._seed, *genes])
            quality = 3 - sum(g * w for g, w in zip(genes, (0.6, 0.05, 0.3, 0.02), strict=True))
            noise = rng.normal(0, 0.7, self.images)
            self._known[genes] = (self._hard + noise < quality).astype(int)
        return self._known[genes]

    def on_shard(self, proposals: Sequence[Genes], shard: int) -> list[list[metrics.State]]:
        images = slice(16 * shard, 16 * shard + 16)
        self.paid += 16 * len(proposals)
        each = racing.folds_of_shard(self.shards)
        return [
            [fold.sum(axis=0).tolist() for fold in np.array_split(answers(x[images]), each)]
            for x in map(self.right, proposals)
        ]


def searched(table: Table, settings: EvolutionSettings, strategy: str = "evolution") -> History:
    latency_map = linear_map(TINY)
    evaluator = Evaluator(table.on_shard, TOP1, table.images, table.shards)
    budget_ms = 0.7 * latency_map.dense_ms
    return search(strategy, TINY, latency_map, budget_ms, "model", settings, evaluator)[0]


def best(history: Sequence[Evaluation]) -> Evaluation:
    scored = [one for one in history if math.isfinite(one.metric)]
    return max(scored, key=lambda one: (one.metric, -one.latency_ms))


class TestSearches:
    def test_racing_finds_the_same_best_config_for_less(self) -> None:
        paid = {True: 0, False: 0}
        for seed in range(6):
            found = {}
            for on in (False, True):
                settings = EvolutionSettings(
                    population=10, parents=4, generations=5, seed=seed, racing=on
                )
                table = Table(seed)
                found[on] = searched(table, settings)
                paid[on] += table.paid
            assert best(found[True]).genes == best(found[False]).genes
            assert all(one.dropped is None for one in found[False])
        assert paid[True] < paid[False] / 1.2

    def test_the_first_generation_does_not_race(self) -> None:
        settings = EvolutionSettings(population=10, parents=4, generations=3)
        history = searched(Table(0), settings, "random")
        assert {one.generation for one in history if one.dropped} == {1, 2}

    def test_a_dropped_candidate_keeps_what_was_known_and_is_not_proposed_again(self) -> None:
        table = Table(0)
        history = searched(table, EvolutionSettings(population=10, parents=4, generations=5))
        dropped = [one for one in history if one.dropped is not None]
        assert dropped
        inside = 0
        for one in dropped:
            assert math.isnan(one.metric)
            assert one.dropped.images in (80, 160, 320)
            right = table.right(one.genes)
            assert one.dropped.metric == pytest.approx(right[: one.dropped.images].mean())
            low, high = one.dropped.interval
            inside += low <= right.mean() <= high
        assert inside >= 0.85 * len(dropped)
        assert len({one.genes for one in history}) == len(history)

    @settings(max_examples=10, deadline=None)
    @given(st.integers(0, 1000))
    def test_the_same_search_comes_out_again(self, seed: int) -> None:
        asked = EvolutionSettings(population=8, parents=3, generations=3, seed=seed)
        one, other = (searched(Table(seed, 256), asked) for _ in range(2))
        # repr: NaN is not equal to itself.
        assert repr(list(one)) == repr(list(other))
