"""The affine correction of a latency map, fitted to whole-model runs.

Parts timed alone find their data in other caches than they do inside a whole forward, so their sum
is off by a few percent, alike for all configs. A slope and an offset per scope take that out, and
the map stays a plain sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparsevit.search.latency_map import LatencyMap
from sparsevit.sparsity.config import Genes

PLAUSIBLE_SLOPE = (0.5, 2.0)


def corrected(
    latency_map: LatencyMap,
    configs: Sequence[Genes],
    model_ms: Sequence[float],
    backbone_ms: Sequence[float],
) -> tuple[LatencyMap, dict[str, Any]]:
    """The map fitted to measured latencies of `configs` in both scopes, and a report of the fit.

    The map is returned as it was where the fit is implausible (too few or too noisy runs).
    """
    genes = np.array(configs)
    measured = np.concatenate([model_ms, backbone_ms])
    raw = np.concatenate([latency_map.predict(genes, s) for s in ("model", "backbone")])
    in_model = np.arange(len(raw)) < len(genes)
    # Relative errors count: each row is divided by what was measured.
    rows = np.stack([raw, in_model, ~in_model], axis=1) / measured[:, None]
    (slope, model_offset, backbone_offset), *_ = np.linalg.lstsq(rows, np.ones(len(raw)))
    fixed = latency_map.fixed_ms * slope + model_offset
    backbone_fixed = latency_map.backbone_fixed_ms * slope + backbone_offset
    report: dict[str, Any] = {
        "configs": len(genes),
        "slope": float(slope),
        "model_offset_ms": float(model_offset),
        "backbone_offset_ms": float(backbone_offset),
        "mean_error_before": float(np.abs(raw / measured - 1).mean()),
    }
    low, high = PLAUSIBLE_SLOPE
    if not low < slope < high or min(fixed, backbone_fixed) < 0:
        return latency_map, report | {"applied": False}
    fitted = replace(
        latency_map,
        fixed_ms=float(fixed),
        backbone_fixed_ms=float(backbone_fixed),
        pair_ms=tuple(tuple(float(ms * slope) for ms in row) for row in latency_map.pair_ms),
    )
    after = np.concatenate([fitted.predict(genes, s) for s in ("model", "backbone")])
    error = float(np.abs(after / measured - 1).mean())
    return fitted, report | {"applied": True, "mean_error_after": error}
