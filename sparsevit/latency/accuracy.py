"""How far a latency map is off: its predictions against whole models measured beside it.

Parts timed alone find their data in other caches than they do inside a whole forward, so their sum
can be off by a few percent, alike for all configs. A slope and an offset take that out. They are
used where they help, and help is judged on configs that they were not fitted to. Importable without
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from sparsevit.search.latency_map import LatencyMap
from sparsevit.sparsity.config import Genes

PLAUSIBLE_SLOPE = (0.5, 2.0)


def errors(predicted: ArrayLike, measured: ArrayLike) -> dict[str, float]:
    """mean_error (MAPE), max_error, bias, as shares of what was measured, and rank_correlation
    (Spearman's) of predictions with measurements of the same configs, in ms."""
    predicted, measured = np.asarray(predicted, float), np.asarray(measured, float)
    off = predicted / measured - 1
    return {
        "mean_error": float(np.abs(off).mean()),
        "max_error": float(np.abs(off).max()),
        "bias": float(off.mean()),
        "rank_correlation": _rank_correlation(predicted, measured),
    }


def verified(
    raw: LatencyMap,
    configs: Sequence[Genes],
    model_ms: Sequence[float],
    backbone_ms: Sequence[float],
    noise_floor: float,
) -> LatencyMap:
    """The map with its accuracy, corrected where that helps.

    model_ms: measured latencies of `configs`; backbone_ms: of the first of them in the backbone's
    scope. noise_floor: how far apart two measurements of one config come out, as a share.
    `accuracy` holds `errors` of the map in the model's scope, configs, noise_floor, corrected,
    mean_error_uncorrected, and predicted and measured ms of every config. Of a corrected map each
    prediction is by the fit to the other configs.
    """
    genes, measured = np.array(configs), np.array(model_ms)
    sums = raw.predict(genes)
    without = errors(sums, measured)
    held_out = np.array([_apply(_fit(*_but(i, sums, measured)), sums[i]) for i in range(len(sums))])
    fit = _fit(sums, measured)
    helps = _plausible(fit) and errors(held_out, measured)["mean_error"] < without["mean_error"]
    corrected = _corrected(raw, fit, genes, backbone_ms) if helps else raw
    predicted = held_out if corrected is not raw else sums
    return replace(
        corrected,
        accuracy={
            **errors(predicted, measured),
            "noise_floor": noise_floor,
            "configs": len(genes),
            "corrected": corrected is not raw,
            "mean_error_uncorrected": without["mean_error"],
            "predicted_ms": predicted.tolist(),
            "measured_ms": measured.tolist(),
        },
    )


def _corrected(
    raw: LatencyMap, fit: tuple[float, float], genes: np.ndarray, backbone_ms: Sequence[float]
) -> LatencyMap:
    slope, offset = fit
    seen = genes[: len(backbone_ms)]
    pairs = slope * (raw.predict(seen, "backbone") - raw.backbone_fixed_ms)
    fixed = raw.fixed_ms * slope + offset
    backbone_fixed = float(np.median(np.array(backbone_ms) - pairs))
    if not 0 <= backbone_fixed <= fixed:
        return raw
    return replace(
        raw,
        fixed_ms=float(fixed),
        backbone_fixed_ms=backbone_fixed,
        pair_ms=tuple(tuple(float(ms * slope) for ms in row) for row in raw.pair_ms),
    )


def _fit(sums: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """(slope, offset) with the smallest relative squares."""
    rows = np.stack([sums, np.ones_like(sums)], axis=1) / measured[:, None]
    (slope, offset), *_ = np.linalg.lstsq(rows, np.ones(len(sums)))
    return float(slope), float(offset)


def _apply(fit: tuple[float, float], sums: np.ndarray) -> np.ndarray:
    return fit[0] * sums + fit[1]


def _but(index: int, *arrays: np.ndarray) -> list[np.ndarray]:
    return [np.delete(array, index) for array in arrays]


def _plausible(fit: tuple[float, float]) -> bool:
    low, high = PLAUSIBLE_SLOPE
    return low < fit[0] < high


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 1.0  # nothing to be put in the wrong order
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count + 1) / 2)[place]
