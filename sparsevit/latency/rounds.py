"""The samples of an attempt in the order they were taken, and the reference's latency beside each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MOST_WAITED = 0.02
"""A round that stood in line for a larger share of its time is loud."""
NEIGHBOURS = 2


@dataclass
class Series:
    """Samples of one run in ms, and the reference's latency beside each (`levels_beside`)."""

    ms: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    converged: bool = False


@dataclass
class Round:
    """The samples of one round in the order they were taken: (run or None for the reference, ms);
    waited: ms this process stood in line."""

    samples: list[tuple[int | None, float]] = field(default_factory=list)
    waited: float = 0.0

    @property
    def ms(self) -> float:
        return sum(ms for _, ms in self.samples)

    @property
    def loud(self) -> bool:
        return self.waited > MOST_WAITED * self.ms


def levels_beside(reference: np.ndarray) -> list[float]:
    """The reference's latency before its first sample, between each two, and after the last one:
    medians of up to two samples on either side. n samples give n + 1, none give none."""
    if not len(reference):
        return []
    return [
        float(np.median(reference[max(0, i - NEIGHBOURS) : i + NEIGHBOURS]))
        for i in range(len(reference) + 1)
    ]
