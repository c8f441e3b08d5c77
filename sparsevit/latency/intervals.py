"""What a list of timings says: an interval for the median, the noise floor, the drift.

Pure functions on samples [n] in the order they were taken; none assumes a distribution, since
timings have long upper tails. Importable without torch.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

Interval = tuple[float, float]

STRETCHES = 8
QUARTERS = 4
DEALS = 200
NORMAL_MEDIAN = 1.4826  # of a normal variable: standard deviation over median deviation
FEWEST_FOR_HALVES = 4
FEWEST_FOR_DRIFT = 2 * QUARTERS
FEWEST_FOR_INTERVAL = 8  # below that no pair of samples encloses the median with 99% confidence


def median_interval(samples: ArrayLike) -> Interval:
    """The 99% confidence interval of the median, between two of the samples (order statistics).

    Each sample falls below the median with probability 1/2, whatever the distribution. Fewer than
    8 samples allow no such interval: their smallest and largest are given.
    """
    ascending = np.sort(np.asarray(samples, np.float64))
    skipped = _outside(len(ascending))
    return float(ascending[skipped]), float(ascending[-1 - skipped])


def widened(interval: Interval, margin: float) -> Interval:
    """The interval, longer by `margin` at both ends."""
    low, high = interval
    return low - margin, high + margin


def noise_floor(samples: ArrayLike) -> float:
    """How far apart two measurements of one thing come out, as a share of the median.

    The samples are cut into up to eight stretches of neighbours; the mean distance of the medians of
    two halves, over every way to share the stretches out. Stretches rather than single samples:
    a machine that is slower for a while is slower for one half, as it would be for one of two
    measurements. 0 for fewer than 4 samples.
    """
    values = np.asarray(samples, np.float64)
    if len(values) < FEWEST_FOR_HALVES:
        return 0.0
    parts = min(STRETCHES, len(values) // 2 * 2)
    part = np.arange(len(values)) * parts // len(values)
    apart = [
        abs(np.median(values[mine]) - np.median(values[~mine]))
        for mine in (np.isin(part, one) for one in _halves(parts))
    ]
    return float(np.mean(apart) / np.median(values))


def sample_noise(samples: ArrayLike) -> float:
    """By how much one sample differs from the next by chance: the standard deviation of one, as a
    share of the median.

    From the median distance of neighbours: neither drift nor a few bursts of load make it larger. 0
    for fewer than 2 samples.
    """
    values = np.asarray(samples, np.float64)
    if len(values) < 2:
        return 0.0
    apart = float(np.median(np.abs(np.diff(values))))
    return NORMAL_MEDIAN * apart / np.sqrt(2) / float(np.median(values))


def drift(samples: ArrayLike) -> float:
    """How far the latency moved during the measurement, beyond chance, as a share of the median.

    The distance between the highest and the lowest median of the four quarters, less what 95% of
    the deals into four parts give. 0 for fewer than 8 samples.
    """
    values = np.asarray(samples, np.float64)
    if len(values) < FEWEST_FOR_DRIFT:
        return 0.0
    quarters = [np.median(part) for part in np.array_split(values, QUARTERS)]
    chance = np.quantile(_dealt_spread(values, QUARTERS), 0.95)
    return float(max(0.0, np.ptp(quarters) - chance) / np.median(values))


def _dealt_spread(values: np.ndarray, parts: int) -> np.ndarray:
    """Highest less lowest median of `parts` parts, for each of many random deals: [deals].

    Every run of `parts` neighbours is dealt one to each part, so that a drift, or a burst of load,
    falls on all parts alike and only chance is left between them.
    """
    runs = values[: len(values) // parts * parts].reshape(1, -1, parts)
    # A fixed seed: the same samples must give the same verdict.
    dealt = np.random.default_rng(0).permuted(np.repeat(runs, DEALS, axis=0), axis=2)
    return np.ptp(np.median(dealt, axis=1), axis=1)


@lru_cache
def _halves(parts: int) -> list[tuple[int, ...]]:
    """Every way to take half of the parts, the first one always among them."""
    return [(0, *rest) for rest in combinations(range(1, parts), parts // 2 - 1)]


@lru_cache(maxsize=4096)
def _outside(n: int) -> int:
    """Samples to leave out at either end of n for 99% confidence."""
    # P(at most k of n samples fall below the median) = sum of C(n, i) / 2^n, i <= k; both tails
    # together may hold 1%. In integers, since 2^-n underflows.
    tail, choose = 0, 1
    for k in range(n // 2):
        tail += choose
        if 200 * tail > 2**n:
            return max(0, k - 1)
        choose = choose * (n - k) // (k + 1)
    return 0
