"""Ranks, crowding, front and hypervolume against closed forms, brute force and pymoo."""

from __future__ import annotations

import numpy as np
import pytest

from sparsevit.search.pareto import (
    crowding_distance,
    hypervolume,
    leading_fronts,
    non_dominated_sort,
    pareto_front,
)

SEEDS = range(8)


def clouds(seed: int) -> np.ndarray:
    """Random points; even seeds on a coarse grid, full of ties and duplicates."""
    rng = np.random.default_rng(seed)
    points = rng.random((rng.integers(1, 120), 2))
    return np.round(points * 6) if seed % 2 == 0 else points


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def peeled_ranks(points: np.ndarray) -> np.ndarray:
    """The definition: take the front away, again and again."""
    ranks = np.full(len(points), -1)
    for rank in range(len(points)):
        left = np.flatnonzero(ranks < 0)
        front = [
            i for i in left if not any(dominates(points[j], points[i]) for j in left if j != i)
        ]
        ranks[front] = rank
    return ranks


@pytest.mark.parametrize("seed", SEEDS)
def test_ranks_are_those_of_the_definition(seed):
    points = clouds(seed)
    assert np.array_equal(non_dominated_sort(points), peeled_ranks(points))


@pytest.mark.parametrize("seed", SEEDS)
def test_ranks_are_those_of_pymoo(seed):
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    points = clouds(seed)
    _, ranks = NonDominatedSorting().do(points, return_rank=True)
    assert np.array_equal(non_dominated_sort(points), ranks)


@pytest.mark.parametrize("seed", [1, 3, 5, 7])
def test_crowding_is_that_of_pymoo(seed):
    from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance

    points = clouds(seed)
    front = points[pareto_front(points)]
    # pymoo gives the mean over the objectives, Deb's paper the sum.
    assert np.allclose(crowding_distance(front), 2 * calc_crowding_distance(front))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_the_leading_fronts_are_those_of_the_ranks(seed, count):
    points = clouds(seed)
    ranks = non_dominated_sort(points)
    fronts = leading_fronts(points, count)
    for rank, front in enumerate(fronts):
        assert sorted(front) == np.flatnonzero(ranks == rank).tolist()
        assert (np.diff(points[front, 0]) >= 0).all()
    held = [len(front) for front in fronts]
    assert sum(held) >= min(count, len(points)) > sum(held[:-1])


def test_crowding_closed_form():
    front = [(0, 10), (1, 6), (4, 1), (5, 0)]
    expected = [np.inf, 4 / 5 + 9 / 10, 4 / 5 + 6 / 10, np.inf]
    assert np.allclose(crowding_distance(front), expected)


def test_crowding_of_duplicates_and_of_few():
    assert crowding_distance([]).shape == (0,)
    assert crowding_distance([(1, 1), (1, 1)]).tolist() == [np.inf, 0]
    assert crowding_distance([(0, 2), (1, 1), (1, 1), (2, 0)])[2] == 0


def test_front_is_sorted_and_keeps_equal_rows():
    points = [(3, 1), (1, 3), (2, 2), (2, 2), (3, 3)]
    assert pareto_front(points).tolist() == [1, 2, 3, 0]
    assert pareto_front([]).tolist() == []


def test_hypervolume_closed_forms():
    assert hypervolume([], (1, 1)) == 0
    assert hypervolume([(0, 0)], (2, 3)) == 6
    assert hypervolume([(0, 2), (1, 1), (2, 0)], (3, 3)) == 3 + 2 + 1
    assert hypervolume([(0, 3), (3, 0), (4, 4)], (3, 3)) == 0
    # A staircase of n equal steps under the unit square.
    n = 50
    steps = np.arange(n) / n
    assert hypervolume(np.stack((steps, 1 - steps - 1 / n), 1), (1, 1)) == pytest.approx(
        (n + 1) / (2 * n)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_hypervolume_is_that_of_pymoo(seed):
    from pymoo.indicators.hv import HV

    points = clouds(seed)
    reference = points.mean(axis=0) + 0.3
    assert hypervolume(points, reference) == pytest.approx(HV(ref_point=reference)(points))


def test_infinite_values_are_ordered_and_nan_is_refused():
    assert non_dominated_sort([(np.inf, 1), (0, 1)]).tolist() == [1, 0]
    with pytest.raises(ValueError, match="NaN"):
        non_dominated_sort([(np.nan, 1)])
    with pytest.raises(ValueError, match=r"\[n, 2\]"):
        pareto_front([(1, 2, 3)])
    with pytest.raises(ValueError, match="finite"):
        hypervolume([(0, 0)], (np.inf, 1))
