"""An interval for a metric that is no mean over images."""

from __future__ import annotations

import numpy as np

Z_95 = 1.96


def interval(value: float, left_out: np.ndarray) -> tuple[float, float]:
    """95% interval within [0, 1] by the delete-one jackknife (Efron and Stein, 1981).

    left_out: the metric without each group of images in turn, float [groups].
    """
    groups = len(left_out)
    if groups < 2:
        return (0.0, 1.0)
    spread = np.sum((left_out - left_out.mean()) ** 2)
    error = Z_95 * float(np.sqrt((groups - 1) / groups * spread))
    return (max(0.0, value - error), min(1.0, value + error))
