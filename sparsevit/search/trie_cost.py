"""What the trie saves: multiply-accumulates of a backbone, one by one and with shared prefixes.

A pure count on genes. Configs that agree on their first block pairs share everything up to there,
the merges between stages included, as sparsevit.evaluate computes them: every distinct prefix of a
list of configs once. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsevit.errors import ConfigError
from sparsevit.search.space import LEVELS
from sparsevit.sparsity.config import Genes, kept_windows
from sparsevit.swin.config import SwinConfig


@dataclass(frozen=True)
class MacTable:
    """MACs of a backbone's parts for one image.

    pair: int64 [block pair, level 0..8], both blocks. merge: int64 [block pair], of the patch merging
    behind it; 0 but for the last pair of a stage that merges. embed: of the patch embedding.
    """

    pair: np.ndarray
    merge: np.ndarray
    embed: int


@dataclass(frozen=True)
class Macs:
    """MACs for one image of a list of configs, each run by itself, and all as one trie."""

    one_by_one: int
    trie: int


def mac_table(config: SwinConfig, height: int, width: int) -> MacTable:
    """MACs of a backbone fed images of height x width pixels.

    Matrix products count, as torch's FLOP counter counts them; norms, scores and sums do not. A score
    that wants a dense first block (`late`) costs more than this.
    """
    pair, merge = [], []
    sizes = config.stage_sizes(height, width)
    for stage, (dim, size) in enumerate(zip(config.dims, sizes, strict=True)):
        windows = config.windows(*size)
        each = _window_macs(config, dim)
        costs = [2 * each * kept_windows(windows, level) for level in LEVELS]
        pair += [costs] * config.pairs[stage]
        after = [0] * config.pairs[stage]
        if stage < len(sizes) - 1:
            rows, cols = sizes[stage + 1]
            after[-1] = rows * cols * 4 * dim * 2 * dim
        merge += after
    rows, cols = sizes[0]
    embed = rows * cols * config.embed_dim * config.in_channels * config.patch_size**2
    return MacTable(np.array(pair, np.int64), np.array(merge, np.int64), embed)


def count_macs(table: MacTable, configs: Sequence[Genes] | np.ndarray) -> Macs:
    """What the backbone computes for a list of configs: of one generation, say, on one image."""
    rows = np.asarray(configs, np.int64)
    if rows.ndim != 2 or rows.shape[1] != len(table.pair) or not len(rows):
        raise ConfigError(f"give configs of {len(table.pair)} levels, one per block pair.")
    costs = table.pair[np.arange(rows.shape[1]), rows] + table.merge
    ordered = np.lexsort(rows.T[::-1])
    rows, costs = rows[ordered], costs[ordered]
    # In lexicographic order a row shares with the one before it all that it shares with any.
    new = np.ones(rows.shape, bool)
    new[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    return Macs(
        one_by_one=len(rows) * table.embed + int(costs.sum()),
        trie=table.embed + int(costs[new].sum()),
    )


def _window_macs(config: SwinConfig, dim: int) -> int:
    """MACs of one window in one block."""
    tokens = config.window_size**2
    projections = tokens * dim * 4 * dim  # query, key, value, output
    attention = 2 * tokens * tokens * dim
    mlp = 2 * tokens * dim * int(dim * config.mlp_ratio)
    return projections + attention + mlp
