"""Mean intersection over union, from three counts a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

HITS, LABELS, PREDICTIONS = 0, 1, 2
Z_95 = 1.96


def counts(labels: np.ndarray, predictions: np.ndarray, classes: int) -> list[list[int]]:
    """[3, classes]: pixels that are right, pixels labelled so, pixels predicted so.

    Rows and diagonal of the confusion matrix: all that the metric needs, and small for many
    classes. Pixels whose label is outside 0..classes-1 are ignored.
    """
    labels, predictions = labels.reshape(-1), predictions.reshape(-1)
    valid = (labels >= 0) & (labels < classes)
    labels, predictions = labels[valid], predictions[valid]
    right = labels[labels == predictions]
    return [np.bincount(x, minlength=classes).tolist() for x in (right, labels, predictions)]


class MeanIoU:
    """spec: {"classes": [class indices that count]}.

    Classes that occur neither in labels nor in predictions are left out of the mean.
    """

    def merge(self, states: Sequence[Any]) -> list[list[int]]:
        return np.sum(np.asarray(states, dtype=np.int64), axis=0).tolist()

    def value(self, state: Sequence[Any], spec: Mapping[str, Any]) -> float:
        return self._value(np.asarray(state), spec)

    def interval(self, states: Sequence[Any], spec: Mapping[str, Any]) -> tuple[float, float]:
        """By the delete-one jackknife over the given states.

        mIoU is no mean over images, so the spread of per-image values says nothing about it; leaving
        out one group of images at a time does (Efron and Stein, 1981).
        """
        groups = len(states)
        if groups < 2:
            return (0.0, 1.0)
        total = np.sum(np.asarray(states, dtype=np.int64), axis=0)
        left_out = np.array([self._value(total - np.asarray(one), spec) for one in states])
        spread = np.sum((left_out - left_out.mean()) ** 2)
        error = Z_95 * float(np.sqrt((groups - 1) / groups * spread))
        center = self._value(total, spec)
        return (max(0.0, center - error), min(1.0, center + error))

    def details(self, state: Sequence[Any], spec: Mapping[str, Any]) -> dict[str, float]:
        """Share of the labelled pixels that are right."""
        found = np.asarray(state)
        labelled = found[LABELS].sum()
        return {"pixel_accuracy": float(found[HITS].sum() / labelled) if labelled else 0.0}

    def _value(self, state: np.ndarray, spec: Mapping[str, Any]) -> float:
        hits = state[HITS].astype(np.float64)
        union = state[LABELS] + state[PREDICTIONS] - hits
        chosen = [c for c in spec["classes"] if union[c] > 0]
        return float(np.mean(hits[chosen] / union[chosen])) if chosen else 0.0
