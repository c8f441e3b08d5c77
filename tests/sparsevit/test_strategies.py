"""The strategies beside evolution and random search, and the reasons why a search stops."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from sparsevit.errors import ConfigError
from sparsevit.search.evolution import EvolutionSettings, propose
from sparsevit.search.exhaustive import propose_exhaustive
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.history import History
from sparsevit.search.moves import Evaluation
from sparsevit.search.released import MAX_DRAWS, propose_released, published_generations
from sparsevit.search.space import SearchSpace
from sparsevit.search.stops import next_turn, planned_evaluations, stop_reason
from sparsevit.search.strategies import STRATEGIES
from sparsevit.search.trie_cost import count_macs, mac_table
from sparsevit.swin.config import SwinConfig
from tests.sparsevit.maps import SMALL_MAPS, SWIN_L, SWIN_T, TINY, linear_map
from tests.sparsevit.test_evolution import quality

SETTINGS = EvolutionSettings(population=20, parents=5, generations=6, seed=3, patience=None)


def metric_of(space: SearchSpace, genes) -> float:
    """A function of the windows that are kept."""
    return quality(space, space.canonical(genes))


def search(strategy: str, space: SearchSpace, settings: EvolutionSettings, share: float = 0.6):
    """The whole log, and why it ended."""
    latency_map, history = linear_map(space), History()
    budget = share * latency_map.dense_ms
    for generation in range(10_000):
        turn = next_turn(
            strategy, space, latency_map, budget, "model", settings, history, generation
        )
        if turn.stop is not None:
            assert turn.proposals == []
            return history, turn.stop
        history.extend(
            Evaluation(g, generation, metric_of(space, g), latency_map.predict(g))
            for g in turn.proposals
        )
    raise AssertionError("the search did not end")


# Exhaustive


def test_an_exhaustive_search_lists_every_feasible_config_once_in_portions():
    history, stop = search("exhaustive", SMALL_MAPS, SETTINGS)
    budget = 0.6 * linear_map(SMALL_MAPS).dense_ms
    rows = SMALL_MAPS.enumerate(distinct=True)
    expected = rows[linear_map(SMALL_MAPS).feasible(rows, budget)]
    assert [list(e.genes) for e in history] == expected.tolist()
    assert stop == "exhausted"
    # More portions than settings.generations, each but the last of `population`.
    sizes = np.bincount([e.generation for e in history])
    assert set(sizes[:-1]) == {20}
    assert len(sizes) > SETTINGS.generations


def test_max_evaluations_ends_an_exhaustive_search():
    history, stop = search("exhaustive", SMALL_MAPS, replace(SETTINGS, max_evaluations=50))
    assert (len(history), stop) == (50, "evaluations")


def test_a_space_too_large_for_an_exhaustive_search_is_refused():
    latency_map = linear_map(SWIN_T)
    with pytest.raises(ConfigError, match=r"41,312 configs.*at most 20,000.*fewer levels"):
        propose_exhaustive(
            SWIN_T, latency_map, 0.6 * latency_map.dense_ms, "model", SETTINGS, [], 0
        )


# Released


def published(space: SearchSpace, settings: EvolutionSettings, share: float = 0.6):
    """(all generations, each with its metrics known to the next; the map; the budget)"""
    latency_map, metrics = linear_map(space), {}
    budget = share * latency_map.dense_ms
    found = []
    for one in published_generations(space, latency_map, budget, "model", settings, metrics):
        found.append(one)
        for genes in one.proposals:
            metrics[tuple(space.canonical(genes).tolist())] = metric_of(space, genes)
    return found, latency_map, budget


def test_the_published_population_is_filled_with_duplicates():
    found, latency_map, budget = published(SMALL_MAPS, replace(SETTINGS, generations=20))
    assert len(found) == 20
    proposals = [genes for one in found for genes in one.proposals]
    assert len(proposals) == 20 * 20
    assert latency_map.feasible(np.array(proposals), budget).all()
    assert len(set(proposals)) < 0.7 * len(proposals)
    assert len({SMALL_MAPS.key(genes) for genes in proposals}) < len(set(proposals))


def test_every_draw_is_timed_up_to_the_last_that_fits():
    settings = replace(SETTINGS, population=400, generations=1)
    (one,), latency_map, budget = published(SWIN_T, settings)
    # The share that fits, of ratios drawn at even odds and sorted within the stages.
    rows = SWIN_T.repair(np.random.default_rng(1).integers(0, 9, size=(40_000, 6)))
    share = latency_map.feasible(rows, budget).mean()
    assert one.timed == pytest.approx(400 / share, rel=0.15)
    assert 400 < one.timed < MAX_DRAWS


def test_no_more_than_ten_thousand_draws_where_nothing_fits():
    settings = replace(SETTINGS, generations=3)
    latency_map = linear_map(SWIN_T)
    fastest = FeasibleSet(SWIN_T, latency_map, 1.0).min_ms
    found = list(published_generations(SWIN_T, latency_map, fastest - 0.1, "model", settings, {}))
    assert found == []
    assert propose_released(SWIN_T, latency_map, fastest - 0.1, "model", settings, [], 0) == []


def test_parents_are_the_best_by_metric_of_all_so_far():
    """Without mutation half of a generation are copies of parents: so the parents can be read off."""
    settings = replace(SETTINGS, population=200, parents=5, mutation=0.0, generations=3)
    found, *_ = published(SWIN_T, settings)
    seen = []
    for before, after in pairwise(found):
        seen += before.proposals
        ranked = sorted(seen, key=lambda genes: -metric_of(SWIN_T, genes))[:5]
        copies = set(after.proposals[:100])
        assert copies == set(ranked)


def test_a_job_of_the_released_search_evaluates_each_config_once():
    settings = replace(SETTINGS, generations=15)
    history, stop = search("released", SMALL_MAPS, settings)
    keys = [SMALL_MAPS.key(e.genes) for e in history]
    assert len(set(keys)) == len(keys)
    found, *_ = published(SMALL_MAPS, settings)
    proposals = [genes for one in found for genes in one.proposals]
    # What is evaluated, and in which order, is what is new in the published generations.
    assert keys == list(dict.fromkeys(map(SMALL_MAPS.key, proposals)))
    # Some of the 15 proposed nothing new.
    assert max(e.generation for e in history) < 14
    assert stop == "generations"


def test_the_released_search_is_pure_and_passes_over_failures():
    settings = replace(SETTINGS, generations=5)
    history, _ = search("released", SWIN_T, settings)
    latency_map = linear_map(SWIN_T)
    budget = 0.6 * latency_map.dense_ms
    shuffled = random.Random(0).sample(list(history), len(history))
    for generation in range(max(e.generation for e in history) + 1):
        again = propose_released(
            SWIN_T, latency_map, budget, "model", settings, shuffled, generation
        )
        assert again == [e.genes for e in history if e.generation == generation]
    failed = [replace(e, metric=math.nan) for e in history if e.generation == 0]
    assert propose_released(SWIN_T, latency_map, budget, "model", settings, failed, 1)
    limited = replace(settings, max_evaluations=7)
    first = propose_released(SWIN_T, latency_map, budget, "model", limited, [], 0)
    assert first == [e.genes for e in history[:7]]


# Stops


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_a_search_says_why_it_stopped(strategy):
    history, stop = search(strategy, SWIN_T, SETTINGS)
    assert (len(history), stop) == (120, "generations")
    history, stop = search(strategy, SWIN_T, replace(SETTINGS, max_evaluations=50))
    assert (len(history), stop) == (50, "evaluations")
    history, stop = search(strategy, TINY, replace(SETTINGS, generations=100))
    assert stop == "exhausted"
    assert (
        len(history) == FeasibleSet(TINY, linear_map(TINY), 0.6 * linear_map(TINY).dense_ms).count
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_unreachable_budget_is_an_exhausted_space(strategy):
    history, stop = search(strategy, SWIN_T, SETTINGS, share=0.01)
    assert (len(history), stop) == (0, "exhausted")


def point(generation: int, latency_ms: float, metric: float, serial: int) -> Evaluation:
    return Evaluation((serial % 9, serial // 9), generation, metric, latency_ms)


FRONT = [(1.0, 0.2), (2.0, 0.6), (3.0, 0.7)]


def log(*generations: list[tuple[float, float]]) -> list[Evaluation]:
    points = [(g, *one) for g, ones in enumerate(generations) for one in ones]
    return [point(*one, serial=i) for i, one in enumerate(points)]


@pytest.mark.parametrize(
    ("later", "gains"),
    [
        ((2.5, 0.6), False),  # dominated
        ((2.0, 0.6), False),  # the same again
        ((2.0, math.nan), False),  # failed, or dropped
        ((2.9999, 0.7), False),  # a trifle faster
        ((2.5, 0.65), True),  # between two of the front
        ((3.0, 0.71), True),  # a better winner
        ((1.5, 0.6), True),  # as good, and faster
    ],
)
def test_no_gain_means_that_the_front_dominates_hardly_more_than_before(later, gains):
    settings = replace(SETTINGS, patience=2, generations=100)
    worse = [(2.9, 0.3)]
    history = log(FRONT, worse, [later])
    assert stop_reason("evolution", settings, history, 2) is None  # too early to say
    assert stop_reason("evolution", settings, history, 3) == (None if gains else "no_gain")
    assert stop_reason("evolution", replace(settings, patience=None), history, 3) is None
    assert stop_reason("evolution", replace(settings, patience=3), history, 3) is None
    shuffled = random.Random(1).sample(history, len(history))
    assert stop_reason("evolution", settings, shuffled, 3) == (None if gains else "no_gain")


def test_a_search_that_gains_nothing_more_ends():
    patient = replace(SETTINGS, population=40, generations=60, patience=4)
    history, stop = search("evolution", SWIN_T, patient)
    assert stop == "no_gain"
    assert 8 < max(e.generation for e in history) < 40


def test_an_exhaustive_search_has_all_the_patience_it_needs():
    _, stop = search("exhaustive", SMALL_MAPS, replace(SETTINGS, patience=1))
    assert stop == "exhausted"


def test_the_planned_number_is_an_upper_bound():
    feasible = FeasibleSet(
        SMALL_MAPS, linear_map(SMALL_MAPS), 0.6 * linear_map(SMALL_MAPS).dense_ms
    )
    assert planned_evaluations("evolution", SETTINGS, feasible) == 120
    assert planned_evaluations("exhaustive", SETTINGS, feasible) == feasible.count
    few = replace(SETTINGS, max_evaluations=30)
    assert planned_evaluations("exhaustive", few, feasible) == 30
    many = replace(SETTINGS, generations=1000)
    assert planned_evaluations("random", many, feasible) == feasible.count


# Cost


@pytest.mark.parametrize(("depths", "least"), [((2, 2, 6, 2), 1.5), ((2, 2, 18, 2), 1.8)])
def test_offspring_share_prefixes(depths, least):
    """Backbone MACs of a whole search, one by one over the trie's (Swin-T, Swin-L; 672 pixels)."""
    config = SwinConfig(depths=depths)
    space = SearchSpace(config.pairs, config.stage_windows(672, 672))
    settings = EvolutionSettings(seed=1, patience=None)
    history, _ = search("evolution", space, settings)
    table = mac_table(config, 672, 672)
    macs = [count_macs(table, [e.genes for e in history if e.generation == g]) for g in range(30)]
    saved = sum(one.one_by_one for one in macs) / sum(one.trie for one in macs)
    assert saved >= least


def test_a_proposal_after_100_000_evaluations_is_quick():
    """Four times the history takes at most about four times as long; O(n^2) would take sixteen."""
    latency_map = linear_map(SWIN_L)
    budget = 0.6 * latency_map.dense_ms
    feasible = FeasibleSet(SWIN_L, latency_map, budget)
    rows = np.unique(feasible.sample(np.random.default_rng(0), 130_000), axis=0)[:100_000]
    metric, ms = 1 - rows.mean(axis=1) / 8, latency_map.predict(rows)
    whole = [
        Evaluation(tuple(g), i // 100, m, t)
        for i, (g, m, t) in enumerate(zip(rows.tolist(), metric.tolist(), ms.tolist(), strict=True))
    ]
    assert len(whole) == 100_000
    settings = EvolutionSettings(generations=2000)

    def seconds(count: int) -> float:
        history, taken = History(whole[:count]), []
        for _ in range(3):
            start = time.process_time()
            arguments = (budget, "model", settings, history, 1000)
            assert len(propose(SWIN_L, latency_map, *arguments)) == 100
            stop_reason("evolution", settings, history, 1000)
            taken.append(time.process_time() - start)
        return min(taken)

    few, many = seconds(25_000), seconds(100_000)
    assert many < 8 * few
    assert many < 1
