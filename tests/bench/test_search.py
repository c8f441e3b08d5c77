"""What bench.search is built of: the exhaustive table, searches replayed on it, and the simulation."""

from __future__ import annotations

import numpy as np
import pytest

from bench.search_cost import evaluation_macs
from bench.search_replay import Problem, Trace, proposed, search
from bench.search_scale import Times, simulate, units_of
from bench.search_strategies import NAMES
from bench.search_truth import Truth, load
from sparsevit import metrics
from sparsevit.search.trie_cost import MacTable, count_macs, mac_table

FREE = Times(per_mac=1.0, scatter=0.0, claim=0.0, hand_in=0.0, step=0.0)
LIMIT = 40


@pytest.fixture(scope="module")
def truth() -> Truth:
    return load()


@pytest.fixture(scope="module")
def problem(truth: Truth) -> Problem:
    return Problem(truth)


@pytest.fixture(scope="module")
def macs(truth: Truth) -> MacTable:
    return mac_table(truth.latency_map.architecture, 448, 448)


class TestTable:
    def test_it_holds_every_config_on_every_image(self, truth: Truth) -> None:
        assert truth.states.shape[:2] == (truth.space.distinct_size, truth.images)
        assert truth.row(tuple(truth.genes[123].tolist())) == 123

    def test_counts_are_possible(self, truth: Truth) -> None:
        hits, labels, predictions = np.moveaxis(truth.states, 2, 0)
        assert (hits <= labels).all()
        assert (hits <= predictions).all()
        assert (labels == labels[0]).all()

    def test_shards_hold_all_images_once(self, truth: Truth) -> None:
        folds = [fold for s in range(truth.shards) for fold in truth.on_shard([5], s)[0]]
        assert metrics.value(metrics.merge(folds, truth.spec), truth.spec) == truth.metric[5]

    def test_a_drawn_table_is_of_the_same_images(self, truth: Truth) -> None:
        drawn = truth.drawn(500, seed=1)
        assert drawn.states.shape == (875, 32 * 8, *truth.states.shape[2:])
        # 500 draws of 128 images move every metric by little, and by the same for all configs.
        assert np.abs(drawn.metric - truth.metric).max() < 0.05
        assert np.corrcoef(drawn.metric, truth.metric)[0, 1] > 0.98


class TestReplay:
    def test_the_exhaustive_front_has_all_of_the_hypervolume(self, problem: Problem) -> None:
        assert problem.hypervolume(problem.front) == 1.0
        assert problem.hypervolume(np.flatnonzero(problem.feasible)) == 1.0
        # The ends may lie at the reference point and add nothing.
        inner = len(problem.front) // 2
        assert problem.hypervolume(np.delete(problem.front, inner)) < 1.0

    @pytest.mark.parametrize("name", NAMES)
    def test_every_strategy_makes_as_many_evaluations(self, problem: Problem, name: str) -> None:
        trace = search(problem, name, 3, LIMIT)
        assert len(trace.rows) == LIMIT
        assert problem.feasible[trace.rows].all()
        assert search(problem, name, 3, LIMIT) == trace

    def test_racing_ends_some_early(self, problem: Problem, macs: MacTable) -> None:
        whole, short = (proposed(problem, "evolution", 0, 120, racing) for racing in (False, True))
        assert {n for images in whole.images for n in images} == {128}
        assert min(n for images in short.images for n in images) < 128
        assert evaluation_macs(problem, macs, short) < evaluation_macs(problem, macs, whole)


def test_macs_of_rungs_are_of_those_who_are_left(problem: Problem, macs: MacTable) -> None:
    rows = [3, 400, 700]
    trace = Trace([rows], [[128, 32, 128]], [0])
    genes = problem.truth.genes
    all_three, two = (count_macs(macs, genes[of]).trie for of in (rows, [3, 700]))
    assert evaluation_macs(problem, macs, trace) == 32 * all_three + 96 * two


class TestSimulation:
    def test_one_worker_does_one_unit_after_another(self) -> None:
        found = simulate([[3.0, 1.0], [2.0]], 1, FREE)
        assert (found.seconds, found.work, found.coordination) == (6.0, 6.0, 0.0)

    def test_a_rung_waits_for_its_last_unit(self) -> None:
        assert simulate([[3.0, 1.0], [2.0]], 2, FREE).seconds == 5.0
        assert simulate([[1.0] * 5], 2, FREE).seconds == 3.0

    def test_statements_take_turns(self) -> None:
        times = Times(per_mac=1.0, scatter=0.0, claim=0.5, hand_in=0.25, step=2.0)
        found = simulate([[1.0, 1.0]], 2, times)
        # A step; claims at 2.5 and 3; ends at 3.5 and 4; handed in at 3.75 and 4.25.
        assert found.seconds == 4.25
        assert found.coordination == 2.0 + 2 * 0.75

    def test_units_hold_what_a_search_computes(self, problem: Problem, macs: MacTable) -> None:
        trace = proposed(problem, "evolution", 0, 60, racing=True)
        units = units_of(problem, macs, trace)
        assert sum(map(sum, units)) == pytest.approx(evaluation_macs(problem, macs, trace))
