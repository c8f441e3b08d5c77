from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sparsevit.latency.calibrate import WHOLE_RUNS, Part, _pair_table, calibrate, spread_configs
from sparsevit.search.latency_map import LatencyMap, map_facts, map_key
from tests.sparsevit.maps import SWIN_T, linear_map

FACTS = map_facts(
    architecture={"name": "tiny"},
    input={
        "height": 224,
        "width": 224,
        "batch": 1,
        "precision": "fp32",
        "mode": "eager",
        "threads": 1,
    },
    score="late",
    device={"kind": "cpu", "model": "test", "driver": None, "power_limit_w": None},
    versions={"torch": "x"},
)


@pytest.mark.alone
@pytest.mark.parametrize("score", ["variance", "late"])
def test_a_real_calibration_covers_every_pair_and_level(tiny_model, score: str) -> None:
    latency_map, dense = calibrate(
        tiny_model,
        torch.randn(1, 3, 224, 224),
        score,
        range(9),
        threads=1,
        mode="eager",
        facts=FACTS,
        max_seconds=2.0,
    )
    assert latency_map.key == map_key(FACTS)
    assert len(latency_map.pair_ms) == 3
    # Dense is timed beside itself: a run without blocks in its place would be far faster.
    assert 0.5 < dense.p50 / dense.reference_p50 < 2
    assert latency_map.dense_ms == dense.corrected_ms
    assert 0.5 < latency_map.predict((0, 0, 0)) / latency_map.dense_ms < 2
    assert latency_map.predict((8, 8, 8)) < latency_map.predict((0, 0, 0))
    accuracy = latency_map.accuracy
    assert accuracy["configs"] == len(accuracy["predicted_ms"]) == WHOLE_RUNS
    assert accuracy["mean_error"] <= accuracy["max_error"] < 1
    assert LatencyMap.from_dict(latency_map.to_dict()) == latency_map
    assert tiny_model.executed_windows == ((64, 64), (16, 16, 16, 16))  # dense again afterwards


def test_the_cost_of_scoring_lies_on_the_last_pair_of_a_stage(tiny_model) -> None:
    """A stage is scored once, if and only if its last pair drops anything."""
    parts, ms = [], {}

    def add(cost: float, *fields: object) -> None:
        part = Part(fields[0], lambda: None, *fields[1:])
        parts.append(part)
        ms[id(part)] = cost

    for stage, pairs in ((0, 1), (1, 2)):
        add(1.0, "enter", stage)
        add(1.5, "scored_enter", stage)
        for pair in range(pairs):
            add(10.0, "pair", stage, pair, 0)
            add(6.0, "pair", stage, pair, 4)  # level 5 keeps as many windows: timed once
    table = _pair_table(tiny_model, parts, ms, (0, 4, 5))
    assert table == ((10.0, 6.5, 6.5), (10.0, 6.0, 6.0), (10.0, 6.5, 6.5))


def test_the_configs_a_map_is_checked_on_are_spread_over_its_latencies() -> None:
    latency_map = linear_map(SWIN_T)
    configs = spread_configs(SWIN_T, latency_map)
    assert len(configs) == WHOLE_RUNS
    assert configs[0] == (0,) * SWIN_T.gene_count
    ms = sorted(latency_map.predict(configs))
    low, high = latency_map.range()
    assert (ms[0], ms[-1]) == (pytest.approx(low), pytest.approx(high))
    assert max(b - a for a, b in pairwise(ms)) < (high - low) / 6
