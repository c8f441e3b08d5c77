"""Latency maps for tests: linear in the kept windows, with closed-form sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.space import LEVELS, SearchSpace
from sparsevit.swin.config import SwinConfig

FIXED_MS, HEAD_MS = 3.0, 2.0

# Many windows per stage: every level keeps another count, so distinct configs are all configs.
SWIN_T = SearchSpace((1, 1, 3, 1), (1024, 256, 64, 16))
SWIN_L = SearchSpace((1, 1, 9, 1), (1024, 256, 64, 16))
# Swin-T at 224 px: the last stage is one window, the one before four.
SMALL_MAPS = SearchSpace((1, 1, 3, 1), (64, 16, 4, 1))
TINY = SearchSpace((1, 1, 2), (64, 16, 4), (0, 3, 6, 8))


def facts(space: SearchSpace) -> dict[str, Any]:
    """Of a backbone with the space's block pairs, at 672 x 672 pixels on a device called test."""
    depths = tuple(2 * pairs for pairs in space.pairs)
    heads = tuple(3 << stage for stage in range(len(depths)))
    input = {"height": 672, "width": 672, "batch": 1, "precision": "fp32"}
    return {
        "architecture": SwinConfig(depths=depths, num_heads=heads).to_dict() | {"head": {}},
        "input": input | {"mode": "eager", "threads": 1},
        "score": "variance",
        "device": {"model": "test"},
        "versions": {"torch": "test"},
    }


def linear_map(space: SearchSpace, stage_ms: Sequence[float] = (8.0, 7.0, 6.0, 5.0)) -> LatencyMap:
    """Each dense block pair of stage s takes stage_ms[s]; a kept window costs its share."""
    kept = space.kept(np.repeat(np.array(LEVELS)[:, None], space.gene_count, axis=1))
    cost = np.repeat(stage_ms[: len(space.pairs)], space.pairs)
    ms = (cost * kept / kept[0]).T
    return LatencyMap(
        key="test",
        levels=LEVELS,
        fixed_ms=FIXED_MS + HEAD_MS,
        pair_ms=tuple(map(tuple, ms.tolist())),
        backbone_fixed_ms=FIXED_MS,
        dense_ms=FIXED_MS + HEAD_MS + float(cost.sum()),
        receipt={"id": "receipt_test"},
        facts=facts(space),
    )
