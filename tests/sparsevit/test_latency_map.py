"""LatencyMap and FeasibleSet against sums done by hand and full enumeration."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sparsevit.errors import ConfigError
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.latency_map import LatencyMap, map_facts, map_key
from sparsevit.search.space import SearchSpace
from tests.sparsevit.maps import (
    FIXED_MS,
    HEAD_MS,
    SMALL_MAPS,
    SWIN_L,
    SWIN_T,
    TINY,
    linear_map,
)

TWO_PAIRS = LatencyMap(
    key="k",
    levels=(0, 4, 8),
    fixed_ms=2.0,
    pair_ms=((10.0, 6.0, 2.0), (20.0, 12.5, 4.0)),
    backbone_fixed_ms=1.5,
    dense_ms=31.0,
    receipt={},
    facts={},
)


def facts(**changes):
    given = {
        "architecture": {"depths": [2, 2, 6]},
        "input": {
            "height": 448,
            "width": 448,
            "batch": 1,
            "precision": "fp32",
            "mode": "eager",
            "threads": 2,
        },
        "score": "variance",
        "device": {
            "kind": "cpu",
            "model": "a CPU",
            "uuid": "CPU-1",
            "driver": None,
            "power_limit_w": None,
        },
        "versions": {"torch": "2.13.0", "sparsevit": "0.1.0"},
    }
    return map_facts(**(given | changes))


def test_predictions_are_sums():
    assert TWO_PAIRS.predict((4, 8)) == 2.0 + 6.0 + 4.0
    assert TWO_PAIRS.predict((0, 4), scope="backbone") == 1.5 + 10.0 + 12.5
    rows = np.array([[0, 0], [8, 8]], np.uint8)
    assert TWO_PAIRS.predict(rows).tolist() == [32.0, 8.0]
    assert TWO_PAIRS.feasible(rows, 8.0).tolist() == [False, True]
    assert TWO_PAIRS.feasible((0, 0), 32.0) is True
    assert TWO_PAIRS.range() == (8.0, 32.0)
    assert TWO_PAIRS.range("backbone") == (7.5, 31.5)


def test_predicting_a_space_agrees_with_predicting_its_rows():
    latency_map = linear_map(SWIN_T)
    rows = SWIN_T.enumerate()
    for scope in ("model", "backbone"):
        expected = latency_map.predict(rows, scope)
        assert np.allclose(latency_map.predict_space(SWIN_T, scope), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "genes", [(0, 3), (0, 9), (-4, 0), (0, 0, 0), (0.0, 4.0), np.zeros((1, 1, 2), int)]
)
def test_configs_outside_the_map_are_refused(genes):
    with pytest.raises(ConfigError):
        TWO_PAIRS.predict(genes)


def test_unknown_scope_and_uncovered_space_are_refused():
    with pytest.raises(ConfigError, match="scope"):
        TWO_PAIRS.predict((0, 0), scope="head")
    with pytest.raises(ConfigError, match="cover"):
        TWO_PAIRS.predict_space(SearchSpace((1, 1), (64, 16), (0, 5)))


@pytest.mark.parametrize(
    "change",
    [
        {"levels": (4, 0, 8)},
        {"levels": (0, 4, 9)},
        {"levels": ()},
        {"pair_ms": ()},
        {"pair_ms": ((1.0, 2.0), (1.0, 2.0))},
        {"pair_ms": ((1.0, 2.0, math.nan), (1.0, 2.0, 3.0))},
        {"fixed_ms": -1.0},
        {"dense_ms": 0.0},
        {"dense_ms": math.inf},
    ],
)
def test_bad_tables_are_refused(change):
    with pytest.raises(ConfigError):
        replace(TWO_PAIRS, **change)


def test_a_map_survives_json():
    latency_map = linear_map(SWIN_T)
    again = LatencyMap.from_dict(json.loads(json.dumps(latency_map.to_dict())))
    assert again == latency_map


@pytest.mark.parametrize(
    "change",
    [{"schema_version": 99}, {"extra": 1}, {"pair_ms": 5}, {"levels": None}, {"fixed_ms": "fast"}],
)
def test_damaged_documents_are_refused(change):
    with pytest.raises(ConfigError):
        LatencyMap.from_dict(TWO_PAIRS.to_dict() | change)
    with pytest.raises(ConfigError):
        LatencyMap.from_dict([])


def test_the_key_depends_on_what_latency_depends_on():
    keys = [
        map_key(facts()),
        map_key(facts(score="l2")),
        map_key(facts(versions={"torch": "2.12.0", "sparsevit": "0.1.0"})),
        map_key(facts(device={**facts()["device"], "power_limit_w": 400.0})),
        map_key(facts(input={**facts()["input"], "threads": 1})),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


def test_the_key_does_not_depend_on_the_single_device_or_on_the_order_of_names():
    other = {**facts()["device"], "uuid": "CPU-2"}
    backwards = {name: facts()[name] for name in reversed(facts())}
    assert map_key(facts(device=other)) == map_key(facts()) == map_key(backwards)


def test_incomplete_facts_are_refused():
    with pytest.raises(ConfigError, match="threads"):
        facts(input={k: v for k, v in facts()["input"].items() if k != "threads"})
    with pytest.raises(ConfigError, match="facts"):
        map_key({"score": "l2"})
    with pytest.raises(ConfigError, match="JSON"):
        map_key(facts(versions={"torch": math.nan}))


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.99, 1.5])
@pytest.mark.parametrize("scope", ["model", "backbone"])
def test_feasible_sets_count_and_list_what_enumeration_finds(share, scope):
    latency_map = linear_map(SWIN_T)
    budget = share * latency_map.dense_ms
    ms = latency_map.predict_space(SWIN_T, scope)
    found = FeasibleSet(SWIN_T, latency_map, budget, scope)
    listed = found.enumerate()
    assert found.size == SWIN_T.size
    assert found.count == len(listed) == (ms <= budget).sum()
    assert len(np.unique(listed, axis=0)) == len(listed)
    assert found.min_ms == pytest.approx(ms.min())
    assert found.max_ms == pytest.approx(ms.max())
    if len(listed):
        assert latency_map.predict(listed, scope).max() <= budget


def test_feasible_sets_count_configs_that_keep_the_same_windows_once():
    latency_map = linear_map(SMALL_MAPS)
    rows = SMALL_MAPS.enumerate()
    budget = 0.6 * latency_map.dense_ms
    keys = np.unique(SMALL_MAPS.kept(rows[latency_map.feasible(rows, budget)]), axis=0)
    assert FeasibleSet(SMALL_MAPS, latency_map, budget).count == len(keys)


def test_feasible_sampling_is_uniform_within_its_band():
    latency_map = linear_map(TINY)
    low, high = latency_map.dense_ms * 0.4, latency_map.dense_ms * 0.7
    ms = latency_map.predict(TINY.enumerate(distinct=True))
    expected = ((ms > low) & (ms <= high)).sum()
    found = FeasibleSet(TINY, latency_map, latency_map.dense_ms)
    draws = found.sample(np.random.default_rng(0), 40_000, above_ms=low, up_to_ms=high)
    rows, counts = np.unique(draws, axis=0, return_counts=True)
    assert len(rows) == expected > 10
    chi_square = ((counts - 40_000 / expected) ** 2 / (40_000 / expected)).sum()
    assert abs(chi_square - (expected - 1)) < 5 * math.sqrt(2 * (expected - 1))


def test_an_unreachable_budget_has_no_config_and_names_the_nearest():
    latency_map = linear_map(SWIN_T)
    found = FeasibleSet(SWIN_T, latency_map, 1.0)
    assert found.count == 0
    assert found.enumerate().shape == (0, 6)
    assert found.sample(np.random.default_rng(0), 5).shape == (0, 6)
    assert FeasibleSet(SWIN_T, latency_map, found.min_ms).count >= 1
    summary = json.loads(json.dumps(found.summary()))
    assert summary["feasible_share"] == 0
    assert FIXED_MS + HEAD_MS < summary["min_ms"] < summary["max_ms"]


def test_one_stage_is_a_space_too():
    space = SearchSpace((2,), (64,))
    latency_map = linear_map(space)
    assert FeasibleSet(space, latency_map, 1e9).count == space.size == 45


def test_swin_l_is_filtered_without_being_listed():
    latency_map = linear_map(SWIN_L)
    budget = 0.6 * latency_map.dense_ms
    found = FeasibleSet(SWIN_L, latency_map, budget)
    assert 0 < found.count < found.size == 17_721_990
    draws = found.sample(np.random.default_rng(0), 500)
    assert latency_map.predict(draws).max() <= budget
