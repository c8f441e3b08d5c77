"""Surrogate: what the evaluations so far say of a config that was not evaluated.

A Gaussian process over the levels (Rasmussen and Williams, 2006, chapters 2 and 5): a smooth function
of each gene, added up, and a smooth function of all of them. What a block pair costs in accuracy is
nearly a sum over the pairs, and that is what few evaluations can tell; the rest corrects it where there
are more. It ranks proposals and scores nothing: every metric that is reported was evaluated.

Importable without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from sparsevit.sparsity.config import MAX_LEVEL

WIDTHS = (3.0, 6.0, 12.0)
"""Of the function of all genes, in levels: how far apart two configs still tell of each other."""
GENE_WIDTHS = (3.0, 8.0)
NOISES = (1e-3, 1e-2, 1e-1)
"""What neither function explains, as a variance beside theirs."""
CHUNK = 4096  # configs predicted at a time: some tens of MB
DECIMALS = 7
"""A prediction is rounded, so that processors that sum in another order rank alike."""


@dataclass(frozen=True)
class _Fit:
    """One choice of widths and noise, and how well it explains the evaluations."""

    widths: tuple[float, float]
    covariance: np.ndarray
    scale: float
    log_likelihood: float


class Surrogate:
    """Fitted to genes uint8 [n, genes] and their metrics float [n], n >= 2; of the widths and noises
    those under which the metrics are likeliest. Takes n cubed: some hundred rows are enough."""

    def __init__(self, genes: np.ndarray, metric: np.ndarray) -> None:
        self._genes, self._mean = genes, float(np.mean(metric))
        self._spread = float(np.std(metric)) or 1.0
        z = (metric - self._mean) / self._spread
        of_all = {width: _of_all(genes, genes, width) for width in WIDTHS}
        of_each = {width: _of_each(genes, genes, width) for width in GENE_WIDTHS}
        fits = [
            _fitted(1 + of_each[widths[1]] + of_all[widths[0]], z, widths, noise)
            for widths in product(WIDTHS, GENE_WIDTHS)
            for noise in NOISES
        ]
        self._best = max(fits, key=lambda fit: fit.log_likelihood)
        self._inverse = np.linalg.inv(self._best.covariance)
        self._weights = self._inverse @ z

    def predict(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the metric of each config: float [m], [m]."""
        parts = np.array_split(genes, -(-len(genes) // CHUNK) or 1)
        means, deviations = zip(*map(self._predict, parts), strict=True)
        return np.concatenate(means).round(DECIMALS), np.concatenate(deviations).round(DECIMALS)

    def _predict(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = self._best
        k = _covariance(genes, self._genes, *best.widths)
        explained = np.einsum("ij,ij->i", k @ self._inverse, k)
        variance = best.scale * np.maximum(2 + genes.shape[1] - explained, 0)
        return self._mean + self._spread * (k @ self._weights), self._spread * np.sqrt(variance)


def _fitted(k: np.ndarray, z: np.ndarray, widths: tuple[float, float], noise: float) -> _Fit:
    k = k + noise * np.eye(len(z))
    # The factor of k with z as one more row: that row is z by the factor of k, which is all that is
    # needed of its inverse. Of the new corner only that it is large enough matters.
    corner = 2 * z @ z / noise + 1
    factor = np.linalg.cholesky(np.block([[k, z[:, None]], [z, corner]]))
    # The scale under which the metrics are likeliest has a closed form.
    scale = max(float(factor[-1, :-1] @ factor[-1, :-1]) / len(z), 1e-12)
    log_determinant = 2 * np.log(np.diag(factor)[:-1]).sum()
    fitting = -0.5 * (len(z) * np.log(scale) + log_determinant)
    return _Fit(widths, k, scale, float(fitting))


def _covariance(a: np.ndarray, b: np.ndarray, width: float, gene_width: float) -> np.ndarray:
    """[len(a), len(b)]; of a config with itself 2 + the number of genes: of a constant, of the
    function of all genes, and of one of each gene."""
    return 1 + _of_each(a, b, gene_width) + _of_all(a, b, width)


def _of_each(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    # As a product of matrices: of each gene by a table of levels.
    levels = np.arange(MAX_LEVEL + 1)
    of_gene = np.exp(-((levels[:, None] - levels) ** 2) / (2 * width**2))
    has_level = (a[:, :, None] == levels).reshape(len(a), -1).astype(np.float64)
    return has_level @ of_gene[b].reshape(len(b), -1).T


def _of_all(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    x, y = a.astype(np.float64), b.astype(np.float64)
    # Squared distances by (x - y)^2.
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.exp(-squares / (2 * width**2))
