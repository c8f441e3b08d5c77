"""What a latency map answers before anything is evaluated: can the budget be met, and what is left.

Importable without torch; the service stores these answers and shows them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsevit.latency.padding import aligned_sizes, padding, scaled_ms
from sparsevit.search.choices import dense_ms, nearest_budget
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.latency_map import SCOPES, LatencyMap, Scope
from sparsevit.search.space import SearchSpace

STEPS = 100
"""Rows of the feasible-share table, less one."""


def summary(latency_map: LatencyMap, space: SearchSpace) -> dict[str, Any]:
    """The answers for a space, as JSON; latencies in ms.

    scopes[scope]: dense_ms, min_ms and max_ms (the predicted range), nearest_ms (the nearest
    possible budget), configs (distinct ones), and `feasible`, rows of [ms, share of the configs
    predicted within it] from min_ms to max_ms. padding: see sparsevit.latency.padding. aligned: the
    nearest sizes without padding, with their dense latency as predicted from the size that was
    measured; empty where nothing is padded. accuracy: see sparsevit.search.latency_map.
    """
    facts = latency_map.facts
    return {
        "key": latency_map.key,
        "device": facts["device"]["model"],
        "input": facts["input"],
        "score": facts["score"],
        "receipt": latency_map.receipt["id"],
        "disturbed": latency_map.disturbed,
        "accuracy": latency_map.accuracy,
        **_sizes(latency_map),
        "scopes": {scope: _scope(latency_map, space, scope) for scope in SCOPES},
    }


def _scope(latency_map: LatencyMap, space: SearchSpace, scope: Scope) -> dict[str, Any]:
    configs = FeasibleSet(space, latency_map, 0.0, scope)
    steps = np.linspace(configs.min_ms, configs.max_ms, STEPS + 1)
    rows = [[float(ms), configs.count_within(ms) / configs.size] for ms in steps]
    rows[-1][1] = 1.0  # the slowest sum, however it was rounded
    return {
        "dense_ms": dense_ms(latency_map, scope),
        "min_ms": configs.min_ms,
        "max_ms": configs.max_ms,
        "nearest_ms": nearest_budget(configs.min_ms),
        "configs": configs.size,
        "feasible": rows,
    }


def _sizes(latency_map: LatencyMap) -> dict[str, Any]:
    config, shape = latency_map.architecture, latency_map.facts["input"]
    size = (shape["height"], shape["width"])
    waste = padding(config, *size)
    if all(stage["padded"] == stage["real"] for stage in waste):
        return {"padding": waste, "aligned": []}
    dense = [row[0] for row in latency_map.pair_ms]
    aligned = [
        {
            "height": height,
            "width": width,
            "predicted_ms": scaled_ms(config, size, (height, width), latency_map.fixed_ms, dense),
        }
        for height, width in aligned_sizes(config, *size)
    ]
    return {"padding": waste, "aligned": sorted(aligned, key=lambda one: one["predicted_ms"])}
