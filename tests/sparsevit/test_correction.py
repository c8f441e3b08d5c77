from __future__ import annotations

import numpy as np
import pytest

from sparsevit.latency.correction import corrected
from sparsevit.search.space import SearchSpace
from tests.sparsevit.maps import linear_map

SPACE = SearchSpace((1, 2), (256, 64))


@pytest.fixture
def configs() -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    return [tuple(sorted(row.tolist())) for row in rng.integers(0, 9, (8, 3))]


def test_an_affine_error_is_taken_out_exactly(configs) -> None:
    raw = linear_map(SPACE)
    model = 1.2 * raw.predict(np.array(configs)) + 0.5
    backbone = 1.2 * raw.predict(np.array(configs), "backbone") + 0.25
    fitted, report = corrected(raw, configs, model, backbone)
    assert report["applied"]
    assert report["slope"] == pytest.approx(1.2)
    assert report["mean_error_after"] == pytest.approx(0, abs=1e-9)
    assert fitted.predict(np.array(configs)) == pytest.approx(model)
    assert fitted.predict(np.array(configs), "backbone") == pytest.approx(backbone)
    assert (fitted.key, fitted.dense_ms) == (raw.key, raw.dense_ms)


def test_an_implausible_fit_leaves_the_map_as_it_was(configs) -> None:
    raw = linear_map(SPACE)
    flat = [5.0] * len(configs)
    same, report = corrected(raw, configs, flat, flat)
    assert not report["applied"]
    assert same is raw
