"""The statistics of the meter, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsevit.latency.intervals import drift, median_interval, noise_floor, sample_noise, widened


@pytest.mark.parametrize("n", [8, 9, 20, 51, 400])
def test_the_median_interval_has_its_confidence(n):
    """Order statistics i and n - 1 - i miss the median with at most 1%, and the next inner pair
    would with more (binomial tails, by hand)."""
    low, high = median_interval(np.arange(n))
    assert low + high == n - 1
    skipped = int(low)

    def miss(k: int) -> float:
        return 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n

    assert miss(skipped) <= 0.01 < miss(skipped + 1)


def test_the_median_interval_of_few_samples_is_their_range():
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval([5.0]) == (5.0, 5.0)


def test_median_intervals_hold_the_median():
    """Long-tailed samples; 99% intervals must hold the true median in at least 975 of 1,000."""
    rng = np.random.default_rng(0)
    rows = rng.lognormal(size=(1000, 40))
    held = [low <= 1.0 <= high for low, high in map(median_interval, rows)]
    assert sum(held) >= 975


def test_widened_moves_both_ends():
    assert widened((1.0, 2.0), 0.5) == (0.5, 2.5)


def test_the_noise_floor_is_the_distance_of_two_halves():
    """Against its definition: medians of two independent measurements half as long."""
    rng = np.random.default_rng(0)
    floors = [noise_floor(10 + rng.standard_normal(60)) for _ in range(100)]
    first, second = 10 + rng.standard_normal((2, 2000, 30))
    apart = np.abs(np.median(first, axis=1) - np.median(second, axis=1)).mean() / 10
    assert np.mean(floors) == pytest.approx(apart, rel=0.15)
    assert noise_floor([1.0, 2.0, 3.0]) == 0
    assert noise_floor([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2 + 1 + 0) / 3 / 2.5)


def test_the_noise_floor_sees_a_machine_that_is_slow_for_a_while():
    """Slow in three stretches of eight; the same samples in any other order hide it."""
    rng = np.random.default_rng(0)
    steady = 10 + 0.02 * rng.standard_normal(80)
    slow = steady + np.repeat([0, 0, 1, 0, 0, 1, 1, 0], 10) * 0.3
    assert noise_floor(steady) < 0.001
    assert noise_floor(slow) > 5 * noise_floor(rng.permutation(slow))


def test_the_noise_of_a_sample_is_that_of_neighbours_not_of_slow_states():
    """The standard deviation where that is all there is; a slow third and a slope add little."""
    rng = np.random.default_rng(0)
    steady = 50 + rng.standard_normal(600)
    assert sample_noise(steady) == pytest.approx(0.02, rel=0.1)
    slow = steady + np.repeat([0, 20, 0], 200) + np.linspace(0, 5, 600)
    assert sample_noise(slow) == pytest.approx(1 / np.median(slow), rel=0.1)
    assert sample_noise([3.0]) == sample_noise([2.0] * 9) == 0


def test_drift_flags_bursts_and_leaves_noise_alone():
    rng = np.random.default_rng(0)
    quiet = [100 + 3 * np.abs(rng.standard_t(3, 80)) for _ in range(100)]
    assert sum(drift(samples) > 0.02 for samples in quiet) <= 2
    for samples in quiet:
        samples[20:50] *= 1.3
    assert sum(drift(samples) > 0.02 for samples in quiet) >= 98
    assert drift([1.0, 9.0]) == 0
