"""What a latency map answers before a search: range, feasible share, padding, aligned sizes."""

from dataclasses import replace

import numpy as np
import pytest

from sparsevit.latency.padding import aligned_sizes, padding, scaled_ms
from sparsevit.search.answers import summary
from sparsevit.search.choices import reachable_budget
from sparsevit.swin.config import SwinConfig
from tests.sparsevit.maps import SMALL_MAPS, SWIN_T, TINY, facts, linear_map

SWIN = SwinConfig()


@pytest.mark.parametrize("space", [SWIN_T, SMALL_MAPS, TINY])
@pytest.mark.parametrize("scope", ["model", "backbone"])
def test_the_table_of_feasible_shares_is_what_listing_every_config_gives(space, scope):
    latency_map = linear_map(space)
    answer = summary(latency_map, space)["scopes"][scope]
    predicted = latency_map.predict(space.enumerate(distinct=True), scope)
    assert answer["configs"] == len(predicted)
    assert answer["min_ms"] == pytest.approx(predicted.min())
    assert answer["max_ms"] == pytest.approx(predicted.max())
    for ms, share in answer["feasible"][1:-1]:
        # Sums rounded in another order may fall on the other side of the limit.
        low, high = (np.mean(predicted <= ms + eps) for eps in (-1e-9, 1e-9))
        assert low <= share <= high
    shares = [share for _, share in answer["feasible"]]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1.0


def test_the_nearest_budget_is_one_that_can_be_met():
    latency_map = linear_map(SWIN_T)
    answer = summary(latency_map, SWIN_T)["scopes"]["model"]
    assert answer["min_ms"] < answer["nearest_ms"] < 1.06 * answer["min_ms"]
    assert reachable_budget(answer["nearest_ms"], latency_map, SWIN_T, "model") > 0


def test_no_aligned_sizes_are_named_where_nothing_is_padded():
    answer = summary(linear_map(SWIN_T), SWIN_T)
    assert answer["aligned"] == []
    assert {row["ratio"] for row in answer["padding"]} == {1.0}


def test_aligned_sizes_come_with_their_latency_fastest_first():
    stated = facts(SWIN_T)
    stated["input"] |= {"height": 288, "width": 792}
    answer = summary(replace(linear_map(SWIN_T), facts=stated), SWIN_T)
    sizes = [(row["height"], row["width"]) for row in answer["aligned"]]
    assert set(sizes) == {(224, 672), (224, 896), (448, 672), (448, 896)}
    latencies = [row["predicted_ms"] for row in answer["aligned"]]
    assert latencies == sorted(latencies)
    assert latencies[0] > 0


@pytest.mark.parametrize(
    ("size", "ratios"),
    # The figures of paper.md, pitfall 3.
    [
        ((256, 704), (1.13, 1.13, 1.46, 2.23)),
        ((224, 616), (1.0, 1.0, 1.08, 1.05)),
        ((672, 672), (1.0,) * 4),
    ],
)
def test_padding_waste_by_stage(size, ratios):
    found = [row["ratio"] for row in padding(SWIN, *size)]
    assert found == pytest.approx(ratios, abs=0.03)


def test_aligned_sizes_are_not_padded():
    for size in ((225, 301), (256, 704), (10, 4000)):
        for aligned in aligned_sizes(SWIN, *size):
            assert {row["ratio"] for row in padding(SWIN, *aligned)} == {1.0}
    assert aligned_sizes(SWIN, 448, 448) == [(448, 448)]


def test_latency_grows_with_windows_and_pixels():
    dense = [8.0, 7.0, 6.0, 6.0, 6.0, 5.0]
    assert scaled_ms(SWIN, (448, 448), (448, 448), 10.0, dense) == pytest.approx(48.0)
    assert scaled_ms(SWIN, (448, 448), (448, 896), 10.0, dense) == pytest.approx(96.0)
