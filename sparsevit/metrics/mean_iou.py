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
    if not valid.all():
        labels, predictions = labels[valid], predictions[valid]
    # One pass over the pixels, not one for each of the three.
    cells = np.multiply(labels, classes, dtype=np.intp) + predictions
    confusion = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    return [x.tolist() for x in (confusion.diagonal(), confusion.sum(1), confusion.sum(0))]


class MeanIoU:
    """spec: {"classes": [class indices that count]}.

    Classes that occur neither in labels nor in predictions are left out of the mean.
    """

    counts = True

    def merge(self, states: Sequence[Any]) -> list[list[int]]:
        return np.sum(np.asarray(states, dtype=np.int64), axis=0).tolist()

    def value(self, state: Sequence[Any], spec: Mapping[str, Any]) -> float:
        return float(self._values(np.asarray(state), spec))

    def interval(self, states: Sequence[Any], spec: Mapping[str, Any]) -> tuple[float, float]:
        """By the delete-one jackknife over the given states.

        mIoU is no mean over images, so the spread of per-image values says nothing about it; leaving
        out one group of images at a time does (Efron and Stein, 1981).
        """
        groups = len(states)
        if groups < 2:
            return (0.0, 1.0)
        left_out = self.left_out(states, spec)
        spread = np.sum((left_out - left_out.mean()) ** 2)
        error = Z_95 * float(np.sqrt((groups - 1) / groups * spread))
        center = self.value(self.merge(states), spec)
        return (max(0.0, center - error), min(1.0, center + error))

    def left_out(self, states: Sequence[Any], spec: Mapping[str, Any]) -> np.ndarray:
        """The metric without each of the states in turn."""
        found = np.asarray(states, dtype=np.int64)
        return self._values(found.sum(axis=0) - found, spec)

    def details(self, state: Sequence[Any], spec: Mapping[str, Any]) -> dict[str, float]:
        """Share of the labelled pixels that are right."""
        found = np.asarray(state)
        labelled = found[LABELS].sum()
        return {"pixel_accuracy": float(found[HITS].sum() / labelled) if labelled else 0.0}

    def _values(self, states: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
        """states int [..., 3, classes] -> [...]."""
        chosen = states[..., spec["classes"]]
        hits = chosen[..., HITS, :]
        labels, predictions = chosen[..., LABELS, :], chosen[..., PREDICTIONS, :]
        union = labels + predictions - hits
        there = union > 0
        iou = np.divide(hits, union, out=np.zeros(union.shape), where=there)
        return iou.sum(axis=-1) / np.maximum(1, there.sum(axis=-1))
