"""Mergeable metric states, in numpy alone.

A state is a plain nested list of integers, so that it travels as JSON, and merging is addition:
shards merge in any order to exactly the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

State = list[list[int]]


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> State:
    """Confusion matrix [classes, classes], rows are labels; labels outside 0..classes-1 are ignored."""
    labels, predictions = labels.reshape(-1).astype(np.int64), predictions.reshape(-1)
    valid = (labels >= 0) & (labels < classes)
    cells = labels[valid] * classes + predictions[valid].astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).tolist()


def merge(states: Sequence[State]) -> State:
    """The state of all images together."""
    return np.sum(np.asarray(states, dtype=np.int64), axis=0).tolist()


def value(state: State, metric: dict[str, Any]) -> float:
    """The metric of a state, in [0, 1], higher is better.

    metric: {"name", "kind": "mean_iou", "classes": [class indices that count]}. Classes that occur
    neither in labels nor in predictions are left out of the mean.
    """
    matrix = np.asarray(state, dtype=np.float64)
    hits = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    chosen = [c for c in metric["classes"] if union[c] > 0]
    return float(np.mean(hits[chosen] / union[chosen])) if chosen else 0.0


def interval(states: Sequence[State], metric: dict[str, Any]) -> tuple[float, float]:
    """95% interval of the merged metric by the delete-one jackknife over the given states.

    mIoU is no mean over images, so the spread of per-image values says nothing about it; leaving
    out one group of images at a time does (Efron and Stein, 1981).
    """
    total = np.sum(np.asarray(states, dtype=np.int64), axis=0)
    center = value(total.tolist(), metric)
    groups = len(states)
    if groups < 2:
        return (0.0, 1.0)
    left_out = [value((total - np.asarray(s)).tolist(), metric) for s in states]
    spread = np.asarray(left_out) - np.mean(left_out)
    error = float(np.sqrt((groups - 1) / groups * np.sum(spread**2)))
    return (max(0.0, center - 1.96 * error), min(1.0, center + 1.96 * error))
