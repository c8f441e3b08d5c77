"""Share of the images whose class is among the k best predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TOP = (1, 5)
Z_95 = 1.96


def hits(label: int, scores: np.ndarray) -> list[int]:
    """[1 if right, 1 if among the five best, 1] of one image; scores [classes].

    Equal scores are ordered by class, as a sort of the predictions would. NaN comes before any
    number, so that a network that overflowed is never right.
    """
    better = int((~(scores <= scores[label])).sum() + (scores[:label] == scores[label]).sum())
    return [*(int(better < k) for k in TOP), 1]


class Accuracy:
    """spec: {"top": 1 or 5}. A state is [right, among the five best, images]."""

    counts = True

    def merge(self, states: Sequence[Any]) -> list[int]:
        return np.sum(np.asarray(states, dtype=np.int64), axis=0).tolist()

    def value(self, state: Sequence[Any], spec: Mapping[str, Any]) -> float:
        return self._share(state, spec["top"])

    def interval(self, states: Sequence[Any], spec: Mapping[str, Any]) -> tuple[float, float]:
        """Wilson's interval: each image is right or wrong, so the counts say all there is to know."""
        total = self.merge(states)
        share, n = self._share(total, spec["top"]), total[-1]
        if n == 0:
            return (0.0, 1.0)
        square = Z_95**2 / n
        center = (share + square / 2) / (1 + square)
        half = Z_95 * np.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
        return (max(0.0, float(center - half)), min(1.0, float(center + half)))

    def left_out(self, states: Sequence[Any], spec: Mapping[str, Any]) -> np.ndarray:
        """The metric without each of the states in turn."""
        found = np.asarray(states, dtype=np.int64)
        rest = found.sum(axis=0) - found
        return rest[:, TOP.index(spec["top"])] / np.maximum(1, rest[:, -1])

    def details(self, state: Sequence[Any], spec: Mapping[str, Any]) -> dict[str, float]:
        """All shares."""
        return {f"top{k}": self._share(state, k) for k in TOP}

    def _share(self, state: Sequence[Any], top: int) -> float:
        return float(state[TOP.index(top)] / state[-1]) if state[-1] else 0.0
