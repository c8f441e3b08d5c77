"""Pareto ranks, crowding, front and hypervolume of two minimised objectives.

Pure functions on float arrays [n, 2]; both columns are minimised (a metric enters negated). Two
objectives allow O(n log n) throughout, so a history of many thousand evaluations costs
milliseconds. Ranks and crowding are those of NSGA-II (Deb et al., 2002). Importable without torch.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import ArrayLike


def non_dominated_sort(objectives: ArrayLike) -> np.ndarray:
    """Rank of each row: 0 for the Pareto front, 1 for the front once that is taken away, and so on.

    A row dominates another when it is nowhere worse and somewhere better; equal rows share a rank.
    Returns int [n]. Raises ValueError unless objectives is [n, 2] without NaN.
    """
    points = _points(objectives)
    if not len(points):
        return np.zeros(0, np.int64)
    # Rows come sorted by the first objective, so a front dominates a row exactly when the smallest
    # second objective it has so far is no larger; those minima ascend over the fronts.
    rows, inverse = np.unique(points, axis=0, return_inverse=True)
    smallest: list[float] = []
    ranks = np.empty(len(rows), np.int64)
    for index, second in enumerate(rows[:, 1].tolist()):
        rank = bisect_right(smallest, second)
        if rank == len(smallest):
            smallest.append(second)
        else:
            smallest[rank] = second
        ranks[index] = rank
    return ranks[inverse.reshape(-1)]


def crowding_distance(objectives: ArrayLike) -> np.ndarray:
    """Crowding distance of each row among the rows given (one front): float [n].

    The sum over the objectives of the distance between a row's two neighbours, as a share of the
    range; infinite at the ends. Of equal rows the later ones get 0, so that they go first.
    """
    points = _points(objectives)
    distance = np.zeros(len(points))
    rows, first = np.unique(points, axis=0, return_index=True)
    if len(rows) <= 2:
        distance[first] = np.inf
        return distance
    total = np.zeros(len(rows))
    for column in rows.T:
        order = np.argsort(column, kind="stable")
        ascending = column[order]
        spread = ascending[-1] - ascending[0]
        if spread > 0:
            total[order[1:-1]] += (ascending[2:] - ascending[:-2]) / spread
        total[order[[0, -1]]] = np.inf
    distance[first] = total
    return distance


def pareto_front(objectives: ArrayLike) -> np.ndarray:
    """Indices of the rows that none dominates, by ascending first objective: int [k].

    Equal rows are all on the front; they keep their order.
    """
    points = _points(objectives)
    order = np.lexsort((points[:, 1], points[:, 0]))  # stable: equal rows stand together, in order
    rows = points[order]
    first = np.append(True, (rows[1:] != rows[:-1]).any(axis=1))[: len(rows)]
    # Of different rows, in this order, one is on the front exactly when its second objective is
    # smaller than that of all before it.
    seconds = rows[first, 1]
    leading = np.append(True, seconds[1:] < np.minimum.accumulate(seconds)[:-1])[: len(seconds)]
    return order[leading[np.cumsum(first) - 1]]


def leading_fronts(objectives: ArrayLike, count: int) -> list[np.ndarray]:
    """The fronts of rank 0, 1, ... until they hold `count` rows, or all: indices, as `pareto_front`.

    For a few of many rows; `non_dominated_sort` ranks them all in about the time of 30 fronts.
    """
    points = _points(objectives)
    left = np.argsort(points[:, 0], kind="stable")
    fronts: list[np.ndarray] = []
    while len(left) and sum(map(len, fronts)) < count:
        front = pareto_front(points[left])
        fronts.append(left[front])
        left = np.delete(left, front)
    return fronts


def hypervolume(objectives: ArrayLike, reference: ArrayLike) -> float:
    """Area that the rows dominate up to the reference point [2]; exact.

    Rows that are not below the reference in both objectives add nothing. Raises ValueError for a
    reference point that is not finite.
    """
    points = _points(objectives)
    corner = np.asarray(reference, np.float64)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise ValueError(f"the reference point must be two finite numbers, not {reference!r}.")
    below = points[(points < corner).all(axis=1)]
    front = below[pareto_front(below)]
    right = np.append(front[1:, 0], corner[0])
    return float(((right - front[:, 0]) * (corner[1] - front[:, 1])).sum()) if len(front) else 0.0


def _points(objectives: ArrayLike) -> np.ndarray:
    points = np.asarray(objectives, np.float64)
    if points.size == 0:
        return points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2 or np.isnan(points).any():
        raise ValueError("objectives must be an array [n, 2] without NaN.")
    return points
