"""Predicts and filters a whole space; run by bench.latency in a process of its own.

Prints seconds (median of 5), peak bytes of the process, configs, and configs within the budget.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.space import LEVELS, SearchSpace

WINDOWS = (1024, 256, 64, 16)


def filter_all(pairs: tuple[int, ...]) -> None:
    space = SearchSpace(pairs, WINDOWS)
    row = [10.0 - level for level in LEVELS]
    latency_map = LatencyMap(
        key="bench",
        levels=LEVELS,
        fixed_ms=5.0,
        pair_ms=[row] * sum(pairs),
        backbone_fixed_ms=4.0,
        dense_ms=5.0 + 10 * sum(pairs),
        receipt={},
        facts={},
    )
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        within = latency_map.predict_space(space) <= 0.6 * latency_map.dense_ms
        seconds.append(time.perf_counter() - start)
    # Not getrusage: its peak is inherited from whoever started the process.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
    print(np.median(seconds), peak, within.size, within.sum())
