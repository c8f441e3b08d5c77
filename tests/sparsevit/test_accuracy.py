"""How far a latency map is off, and when it is corrected."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from sparsevit.latency.accuracy import errors, verified
from sparsevit.search.space import SearchSpace
from tests.sparsevit.maps import linear_map

SPACE = SearchSpace((1, 2), (256, 64))
NOISE = 0.005


@pytest.fixture
def configs() -> list[tuple[int, ...]]:
    return [tuple(row) for row in SPACE.sample(np.random.default_rng(0), 20).tolist()]


def test_an_affine_error_is_taken_out_exactly(configs) -> None:
    raw = linear_map(SPACE)
    model = 1.2 * raw.predict(configs) + 0.5
    backbone = 1.2 * raw.predict(configs, "backbone") + 0.25
    fitted = verified(raw, configs, model, backbone[:4], NOISE)
    assert fitted.predict(configs) == pytest.approx(model)
    assert fitted.predict(configs, "backbone") == pytest.approx(backbone)
    assert (fitted.key, fitted.dense_ms) == (raw.key, raw.dense_ms)
    accuracy = fitted.accuracy
    assert accuracy["corrected"]
    assert accuracy["mean_error"] == pytest.approx(0, abs=1e-9)
    assert accuracy["mean_error_uncorrected"] > 0.15
    assert (accuracy["configs"], accuracy["noise_floor"]) == (20, NOISE)


def test_a_correction_that_only_fits_noise_is_not_made(configs) -> None:
    """Alternating errors: any fit to 19 configs is worse on the one left out."""
    raw = linear_map(SPACE)
    sums = raw.predict(configs)
    order = np.argsort(sums)
    measured = sums.copy()
    measured[order] *= np.where(np.arange(20) % 2, 1.01, 1 / 1.01)
    same = verified(raw, configs, measured, raw.predict(configs[:4], "backbone"), NOISE)
    assert not same.accuracy["corrected"]
    assert same.pair_ms == raw.pair_ms
    assert same.accuracy["mean_error"] == same.accuracy["mean_error_uncorrected"]


def test_an_implausible_fit_leaves_the_map_as_it_was(configs) -> None:
    raw = linear_map(SPACE)
    flat = [5.0] * len(configs)
    same = verified(raw, configs, flat, flat[:4], NOISE)
    assert not same.accuracy["corrected"]
    assert (same.pair_ms, same.fixed_ms) == (raw.pair_ms, raw.fixed_ms)


def test_errors_are_shares_of_what_was_measured() -> None:
    found = errors([11.0, 18.0, 30.0], [10.0, 20.0, 30.0])
    assert found["mean_error"] == pytest.approx(0.2 / 3)
    assert found["max_error"] == pytest.approx(0.1)
    assert found["bias"] == pytest.approx(0)
    assert found["rank_correlation"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_the_rank_correlation_is_spearmans_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, (2, 30)) + 1.0
    assert errors(a, b)["rank_correlation"] == pytest.approx(spearmanr(a, b).statistic)
