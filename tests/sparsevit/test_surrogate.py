"""The surrogate against the textbook's formulas and a function it should know, and its choices."""

from __future__ import annotations

import numpy as np
import pytest

from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.history import Columns
from sparsevit.search.moves import mutate
from sparsevit.search.pareto import hypervolume
from sparsevit.search.promising import MOST_ROWS, SIBLING, TURNS, Front, most_promising
from sparsevit.search.space import SearchSpace
from sparsevit.search.surrogate import GENE_WIDTHS, NOISES, WIDTHS, Surrogate
from tests.sparsevit.maps import SWIN_T, TINY, linear_map

GENES = TINY.enumerate()


def quality(genes: np.ndarray) -> np.ndarray:
    """Mostly a sum over the pairs, and a little of what two of them do together."""
    x = genes / 10
    return 0.7 - (x**2 * np.linspace(0.3, 0.1, x.shape[1])).sum(axis=1) - 0.05 * x[:, 0] * x[:, -1]


def columns(genes: np.ndarray, space: SearchSpace = TINY) -> Columns:
    ms = np.asarray(linear_map(space).predict(genes))
    return Columns(genes, np.zeros(len(genes), np.int64), quality(genes), ms)


def draw(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(GENES)[:count]


def test_predictions_are_the_formulas_of_a_gaussian_process() -> None:
    """By solving the linear equations, for the widths and noise that were taken."""
    known, asked = draw(12), draw(20, seed=1)
    metric = quality(known)
    surrogate = Surrogate(known, metric)
    z = (metric - metric.mean()) / metric.std()

    def covariance(a: np.ndarray, b: np.ndarray, width: float, gene_width: float) -> np.ndarray:
        apart = (a[:, None].astype(float) - b) ** 2
        each = np.exp(-apart / (2 * gene_width**2)).sum(-1)
        return 1 + each + np.exp(-apart.sum(-1) / (2 * width**2))

    likeliest = (-np.inf, np.zeros(0), np.zeros(0))
    for width in WIDTHS:
        for gene_width in GENE_WIDTHS:
            for noise in NOISES:
                k = covariance(known, known, width, gene_width) + noise * np.eye(len(z))
                scale = z @ np.linalg.solve(k, z) / len(z)
                density = -0.5 * np.linalg.slogdet(2 * np.pi * scale * k)[1] - 0.5 * len(z)
                across = covariance(asked, known, width, gene_width)
                mean = metric.mean() + metric.std() * across @ np.linalg.solve(k, z)
                prior = covariance(asked, asked, width, gene_width)
                left = np.diag(prior - across @ np.linalg.solve(k, across.T))
                deviation = metric.std() * np.sqrt(scale * left)
                likeliest = max(likeliest, (density, mean, deviation), key=lambda one: one[0])
    mean, deviation = surrogate.predict(asked)
    np.testing.assert_allclose(mean, likeliest[1], atol=1e-6)
    np.testing.assert_allclose(deviation, likeliest[2], atol=1e-5)


def test_a_few_evaluations_tell_the_rest_of_a_smooth_metric() -> None:
    known = draw(40)
    mean, deviation = Surrogate(known, quality(known)).predict(GENES)
    off = np.abs(mean - quality(GENES))
    assert off.max() < 0.1 * np.ptp(quality(GENES))
    assert (off <= 4 * deviation + 1e-3).mean() > 0.95


def test_equal_metrics_are_predicted_as_they_are() -> None:
    mean, _ = Surrogate(draw(5), np.full(5, 0.5)).predict(GENES)
    np.testing.assert_allclose(mean, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_gains_are_differences_of_exact_hypervolumes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ms, metric = rng.uniform(1, 9, 12), rng.uniform(0.1, 0.9, 12)
    asked = rng.uniform((1, 0.0), (10, 1), (50, 2))
    front = Front(ms, metric, 10.0, 0.2)
    if seed:
        front.add(4.0, 0.5)
        ms, metric = np.append(ms, 4.0), np.append(metric, 0.5)

    def area(ms: np.ndarray, metric: np.ndarray) -> float:
        return hypervolume(np.column_stack((ms, -metric)), (10.0, -0.2))

    expected = [area(np.append(ms, t), np.append(metric, m)) - area(ms, metric) for t, m in asked]
    np.testing.assert_allclose(front.gains(*asked.T), expected, atol=1e-12)


def test_an_empty_front_counts_from_its_floor() -> None:
    gains = Front(np.zeros(0), np.zeros(0), 10.0, 0.2).gains(np.array([4.0]), np.array([0.7]))
    np.testing.assert_allclose(gains, 6 * 0.5)


def test_the_most_promising_move_the_front_and_two_of_three_share_a_prefix() -> None:
    latency_map = linear_map(SWIN_T)
    budget_ms = 0.7 * latency_map.dense_ms
    feasible = FeasibleSet(SWIN_T, latency_map, budget_ms)
    rng = np.random.default_rng(0)
    known = columns(np.unique(feasible.sample(rng, 40), axis=0), SWIN_T)
    pool = np.unique(mutate(SWIN_T, rng, known.genes, 0.1, 3000), axis=0)
    pool = rng.permutation(pool[latency_map.predict(pool) <= budget_ms])
    chosen = most_promising(
        pool, latency_map, "model", known, budget_ms, 12, np.random.default_rng(0)
    )
    assert len({tuple(row) for row in chosen.tolist()}) == 12

    def area(genes: np.ndarray) -> float:
        both = columns(np.concatenate((known.genes, genes)), SWIN_T)
        return hypervolume(np.column_stack((both.latency_ms, -both.metric)), (budget_ms, 0))

    others = [area(np.random.default_rng(seed).permutation(pool)[:12]) for seed in range(50)]
    assert area(chosen) > max(others)
    table, places = latency_map.table, np.arange(6)
    for number in range(1, 12):
        row = chosen[number]
        shared = np.logical_and.accumulate(chosen[:number] == row, axis=1).sum(axis=1).max()
        left = table[places, row][shared:].sum() + latency_map.fixed("model")
        assert number % TURNS == 0 or left <= SIBLING * latency_map.predict(row)


def test_the_choice_does_not_depend_on_the_order_of_the_evaluations() -> None:
    known = columns(GENES[np.random.default_rng(0).integers(len(GENES), size=2 * MOST_ROWS)])
    found = []
    for order in (np.arange(2 * MOST_ROWS), np.random.default_rng(1).permutation(2 * MOST_ROWS)):
        rng = np.random.default_rng(2)
        arguments = (linear_map(TINY), "model", known.where(order), 1e9, 5, rng)
        found.append(most_promising(GENES, *arguments).tolist())
    assert found[0] == found[1]
