"""Proposals: pure, distinct, feasible, bounded; and good enough to find a known optimum."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from sparsevit.errors import ConfigError
from sparsevit.search.evolution import Evaluation, EvolutionSettings, propose
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.moves import crossover, mutate, select_parents
from sparsevit.search.pareto import crowding_distance, non_dominated_sort
from sparsevit.search.space import SearchSpace
from sparsevit.search.strategies import STRATEGIES, Strategy, propose_random
from tests.sparsevit.maps import SMALL_MAPS, SWIN_L, SWIN_T, TINY, linear_map

SETTINGS = EvolutionSettings(population=20, parents=8, generations=12, seed=3)
OURS = {name: STRATEGIES[name] for name in ("evolution", "random")}
strategies = pytest.mark.parametrize("strategy", OURS.values(), ids=OURS.keys())


def quality(space: SearchSpace, genes) -> float:
    """A metric with an optimum of its own kind: early stages hurt most, sparsity ever more."""
    weights = np.linspace(3, 1, space.gene_count)
    return 100 - float((weights * (np.array(genes) / 8) ** 3).sum())


def search(
    strategy: Strategy,
    space: SearchSpace,
    latency_map: LatencyMap,
    budget: float,
    settings: EvolutionSettings,
) -> list[Evaluation]:
    history: list[Evaluation] = []
    for generation in range(1000):
        proposed = strategy(space, latency_map, budget, "model", settings, history, generation)
        if not proposed:
            return history
        history += [
            Evaluation(g, generation, quality(space, g), latency_map.predict(g)) for g in proposed
        ]
    raise AssertionError("the search did not end")


@strategies
def test_proposals_are_feasible_distinct_configs(strategy):
    latency_map = linear_map(SWIN_T)
    budget = 0.6 * latency_map.dense_ms
    history = search(strategy, SWIN_T, latency_map, budget, SETTINGS)
    assert len(history) == SETTINGS.population * SETTINGS.generations
    assert len({SWIN_T.key(e.genes) for e in history}) == len(history)
    assert all(e.latency_ms <= budget for e in history)
    rows = np.array([e.genes for e in history])
    assert np.array_equal(SWIN_T.repair(rows), rows)
    assert all(type(level) is int for level in history[0].genes)


@strategies
def test_proposals_are_pure(strategy):
    """Neither the order of results nor what came later, nor an earlier call, changes a proposal."""
    latency_map = linear_map(SWIN_T)
    budget = 0.6 * latency_map.dense_ms
    history = search(strategy, SWIN_T, latency_map, budget, SETTINGS)
    shuffled = random.Random(0).sample(history, len(history))
    for generation in range(SETTINGS.generations):
        again = strategy(SWIN_T, latency_map, budget, "model", SETTINGS, shuffled, generation)
        assert again == [e.genes for e in history if e.generation == generation]


@strategies
def test_another_seed_gives_another_search(strategy):
    latency_map = linear_map(SWIN_T)
    budget = 0.6 * latency_map.dense_ms
    first, second = (
        strategy(SWIN_T, latency_map, budget, "model", replace(SETTINGS, seed=seed), [], 0)
        for seed in (1, 2)
    )
    assert first != second


@strategies
def test_the_space_is_exhausted_exactly_once(strategy):
    latency_map = linear_map(SMALL_MAPS)
    budget = 0.6 * latency_map.dense_ms
    settings = replace(SETTINGS, population=64, generations=1000)
    history = search(strategy, SMALL_MAPS, latency_map, budget, settings)
    keys = {SMALL_MAPS.key(e.genes) for e in history}
    assert len(keys) == len(history) == FeasibleSet(SMALL_MAPS, latency_map, budget).count


@strategies
def test_limits_end_the_search(strategy):
    latency_map = linear_map(SWIN_T)
    budget = 0.6 * latency_map.dense_ms
    history = search(strategy, SWIN_T, latency_map, budget, replace(SETTINGS, max_evaluations=50))
    assert [sum(e.generation == g for e in history) for g in range(4)] == [20, 20, 10, 0]
    assert strategy(SWIN_T, latency_map, budget, "model", SETTINGS, history, 12) == []


@strategies
def test_an_unreachable_budget_proposes_nothing(strategy):
    assert strategy(SWIN_T, linear_map(SWIN_T), 1.0, "model", SETTINGS, [], 0) == []


@strategies
def test_the_backbone_scope_counts_the_backbone(strategy):
    latency_map = linear_map(SWIN_T)
    budget = FeasibleSet(SWIN_T, latency_map, 1.0, "backbone").min_ms
    assert strategy(SWIN_T, latency_map, budget, "model", SETTINGS, [], 0) == []
    found = strategy(SWIN_T, latency_map, budget, "backbone", SETTINGS, [], 0)
    assert found == [(8,) * 6]


@strategies
def test_the_first_generation_holds_the_feasible_uniform_configs(strategy):
    latency_map = linear_map(SWIN_T)
    budget = 0.6 * latency_map.dense_ms
    first = strategy(SWIN_T, latency_map, budget, "model", SETTINGS, [], 0)
    uniform = [row for row in SWIN_T.uniform() if latency_map.predict(row) <= budget]
    assert first[: len(uniform)] == [tuple(row.tolist()) for row in uniform]
    assert len(uniform) >= 3


def test_the_first_generation_is_spread_over_latency_and_dense_near_the_budget():
    latency_map = linear_map(SWIN_T)
    budget = 0.6 * latency_map.dense_ms
    low = FeasibleSet(SWIN_T, latency_map, budget).min_ms
    settings = replace(SETTINGS, population=108)
    first = propose(SWIN_T, latency_map, budget, "model", settings, [], 0)
    sampled = np.array(first[5:])
    share = (latency_map.predict(sampled) - low) / (budget - low)
    assert (share > 0.9).mean() >= 0.5
    assert set(np.floor(share[share < 1] * 8)) == set(range(8))


def test_failed_evaluations_are_neither_parents_nor_proposed_again():
    latency_map = linear_map(TINY)
    budget = 0.7 * latency_map.dense_ms
    settings = replace(SETTINGS, generations=100)
    history: list[Evaluation] = []
    for generation in range(100):
        proposed = propose(TINY, latency_map, budget, "model", settings, history, generation)
        history += [Evaluation(g, generation, math.nan, latency_map.predict(g)) for g in proposed]
        if not proposed:
            break
    assert len({TINY.key(e.genes) for e in history}) == len(history)
    assert len(history) == FeasibleSet(TINY, latency_map, budget).count


def test_evolution_finds_the_best_config_and_beats_random_search():
    """After 720 of 41,312 feasible configs: the very best for most seeds, never far from it."""
    latency_map = linear_map(SWIN_T)
    budget = 0.6 * latency_map.dense_ms
    feasible = FeasibleSet(SWIN_T, latency_map, budget).enumerate()
    best = max(quality(SWIN_T, row) for row in feasible)
    lost = np.empty((10, 2))
    for seed in range(10):
        settings = EvolutionSettings(population=40, parents=16, generations=18, seed=seed)
        for column, strategy in enumerate((propose, propose_random)):
            history = search(strategy, SWIN_T, latency_map, budget, settings)
            lost[seed, column] = best - max(e.metric for e in history)
    by_evolution, by_random = lost.T
    assert (by_evolution < 1e-9).sum() >= 6
    assert by_evolution.max() < 0.07
    assert by_evolution.mean() < 0.015
    assert (by_evolution < by_random).all()


def test_proposals_for_swin_l_need_no_list_of_it():
    latency_map = linear_map(SWIN_L)
    budget = 0.5 * latency_map.dense_ms
    history = search(propose, SWIN_L, latency_map, budget, replace(SETTINGS, generations=4))
    assert len({SWIN_L.key(e.genes) for e in history}) == 80


def test_mutants_differ_in_a_gene_before_repair_even_at_probability_zero():
    rng = np.random.default_rng(0)
    parents = np.zeros((1, 6), np.uint8)
    mutants = mutate(SWIN_T, rng, parents, 0.0, 500)
    assert ((mutants != 0).sum(axis=1) == 1).all()


def test_half_of_the_mutants_keep_a_prefix_of_their_parent():
    mutants = mutate(SWIN_T, np.random.default_rng(0), np.zeros((1, 6), np.uint8), 1.0, 6000)
    kept = (np.cumsum(mutants != 0, axis=1) == 0).sum(axis=1)
    # 1/2 change everything, and so does one in six of the others.
    assert np.bincount(kept, minlength=6) / 6000 == pytest.approx([7 / 12] + [1 / 12] * 5, abs=0.02)


def test_mutation_changes_about_the_asked_share_of_genes():
    space = SearchSpace((1,) * 40, (64,) * 40)
    parents = np.full((1, 40), 4, np.uint8)
    changed = mutate(space, np.random.default_rng(0), parents, 0.1, 4000) != 4
    # The last gene may change in every mutant, the first in half of them and one in forty more.
    assert changed[:, 0].mean() == pytest.approx(0.1 * 41 / 80, abs=0.015)
    assert changed[:, -1].mean() >= 0.1


def test_most_mutants_move_by_one_level():
    parents = np.array([[0, 4, 2, 4, 6, 8]], np.uint8)
    steps = np.abs(
        mutate(SWIN_T, np.random.default_rng(0), parents, 0.0, 4000).astype(int) - parents
    )
    assert 0.8 < (steps.max(axis=1) == 1).mean() < 0.9


def test_one_level_leaves_nothing_to_mutate():
    space = SearchSpace((1, 1), (64, 16), (3,))
    parents = np.full((1, 2), 3, np.uint8)
    assert (mutate(space, np.random.default_rng(0), parents, 0.5, 10) == 3).all()


def test_children_are_a_prefix_of_one_parent_and_the_rest_of_another():
    parents = np.array([[1, 2, 3, 3, 3, 4], [5, 6, 7, 7, 7, 8]], np.uint8)
    children = {
        tuple(row) for row in crossover(SWIN_T, np.random.default_rng(0), parents, 400).tolist()
    }
    low, high = (tuple(row) for row in parents.tolist())
    cuts = range(1, 6)
    rising = {low[:cut] + high[cut:] for cut in cuts}
    # A gene of the lower parent behind the cut stage's is raised to the last of the prefix.
    falling = {high[:cut] + low[cut:] for cut in (1, 2, 5)} | {(5, 6, 7, 7, 7, 4)}
    assert children == {low, high} | rising | falling


def test_half_of_the_parents_are_the_best_by_metric_and_the_rest_keep_variety():
    # On a line: every evaluation is on the front, the slower the better.
    past = [Evaluation((level,) * 6, 0, 10.0 - level, 30.0 - level) for level in range(9)]
    past.append(Evaluation((0, 1, 1, 1, 1, 1), 0, 50.0, 99.0))
    parents = [tuple(row) for row in select_parents(past, 30.0, 4).tolist()]
    assert parents[:2] == [(0,) * 6, (1,) * 6]
    # The two ends of the front are the least crowded; one of them is a parent already.
    assert (8,) * 6 in parents[2:]


def test_without_enough_feasible_evaluations_the_least_violating_are_parents():
    past = [Evaluation((level,) * 6, 0, 1.0, 40.0 - level) for level in range(9)]
    assert select_parents(past, 32.5, 3)[:, 0].tolist() == [8, 7, 6]
    assert select_parents([], 32.5, 3).size == 0


def survivors_by_definition(past: list[Evaluation], budget_ms: float, count: int):
    """The same survival, on lists, with every rank and every sort in full."""
    scored = sorted(
        (e for e in past if math.isfinite(e.metric)),
        key=lambda e: (-e.metric, e.latency_ms, e.genes),
    )
    within = [e for e in scored if e.latency_ms <= budget_ms]
    objectives = np.array([(-e.metric, e.latency_ms) for e in within]).reshape(-1, 2)
    ranks = non_dominated_sort(objectives)
    ordered = []
    for rank in range(max(ranks, default=-1) + 1):
        front = np.flatnonzero(ranks == rank)
        ordered += front[np.argsort(-crowding_distance(objectives[front]), kind="stable")].tolist()
    chosen = within[: (count + 1) // 2]
    chosen += [within[i] for i in ordered if within[i] not in chosen][: count - len(chosen)]
    beyond = sorted((e for e in scored if e.latency_ms > budget_ms), key=lambda e: e.latency_ms)
    return chosen + beyond[: count - len(chosen)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 4, 25, 400])
def test_survival_is_that_of_its_definition(seed, count):
    rng = np.random.default_rng(seed)
    rows = np.unique(SWIN_T.sample(rng, 300), axis=0)
    # Rounded, so that there are ties in metric, in latency and in both.
    metric, latency = np.round(rng.random((2, len(rows))), 1)
    metric[rng.random(len(rows)) < 0.1] = math.nan
    past = [
        Evaluation(tuple(genes), 0, float(m), float(ms))
        for genes, m, ms in zip(rows.tolist(), metric, latency, strict=True)
    ]
    expected = survivors_by_definition(past, 0.7, count)
    shuffled = random.Random(seed).sample(past, len(past))
    assert select_parents(shuffled, 0.7, count).tolist() == [list(e.genes) for e in expected]


@pytest.mark.parametrize(
    "change",
    [
        {"population": 0},
        {"generations": 0},
        {"parents": 0},
        {"parents": 21},
        {"mutation": -0.1},
        {"mutation": 1.1},
        {"mutation": math.nan},
        {"seed": -1},
        {"seed": 2**64},
        {"max_evaluations": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError):
        replace(SETTINGS, **change)
