"""SearchSpace: every sparsity config of one network, as integer levels.

A config is a flat row of genes, one level per block pair, stage after stage, non-descending within
a stage (a dropped window never comes back; paper, section 3.2). A stage is therefore a multiset of
levels, and the space the product of its stages: size, enumeration and uniform sampling have closed
forms, and nothing is ever drawn and rejected. Level k drops k tenths of the windows.

Two configs that keep the same windows are one config: `key` is what identifies it. On small maps
many levels keep equally much (of 4 windows, levels 1 and 2 both keep 3), so the distinct configs
can be few: at 224 px Swin-T has 120,285 configs, of which 1,620 are distinct.

Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import MAX_LEVEL, Genes, kept_windows

LEVELS = tuple(range(MAX_LEVEL + 1))
MAX_ENUMERATED = 100_000_000


@dataclass(frozen=True)
class SearchSpace:
    """Every non-descending config of a network.

    pairs: block pairs in each stage. windows: windows per image in each stage (one partition).
    levels: allowed levels, ascending, each in 0..8. Raises ConfigError where these make no space.
    """

    pairs: tuple[int, ...]
    windows: tuple[int, ...]
    levels: tuple[int, ...] = LEVELS

    def __post_init__(self) -> None:
        for name in ("pairs", "windows", "levels"):
            object.__setattr__(self, name, _integers(name, getattr(self, name)))
        if not self.pairs or min(self.pairs) < 1:
            raise ConfigError(f"pairs is {self.pairs}; every stage needs at least one block pair.")
        if len(self.windows) != len(self.pairs) or min(self.windows) < 1:
            raise ConfigError(
                f"windows is {self.windows}; give one positive count for each of the "
                f"{len(self.pairs)} stages."
            )
        if not self.levels or any(a >= b for a, b in pairwise(self.levels)):
            raise ConfigError(f"levels is {self.levels}; give ascending levels without repeats.")
        if self.levels[0] < 0 or self.levels[-1] > MAX_LEVEL:
            raise ConfigError(f"levels is {self.levels}; a level lies between 0 and {MAX_LEVEL}.")

    @property
    def gene_count(self) -> int:
        """Genes of one config: the block pairs of all stages."""
        return sum(self.pairs)

    @property
    def size(self) -> int:
        """Configs in the space: the product over the stages of C(pairs + levels - 1, pairs)."""
        return math.prod(math.comb(p + len(self.levels) - 1, p) for p in self.pairs)

    @property
    def distinct_size(self) -> int:
        """Configs that differ in what they keep: different keys."""
        return math.prod(
            math.comb(p + len(levels) - 1, p)
            for p, levels in zip(self.pairs, self.distinct_levels, strict=True)
        )

    @cached_property
    def distinct_levels(self) -> tuple[tuple[int, ...], ...]:
        """Per stage, the lowest level of every distinct kept count."""
        stages = []
        for windows in self.windows:
            by_count: dict[int, int] = {}
            for level in self.levels:
                by_count.setdefault(kept_windows(windows, level), level)
            stages.append(tuple(by_count.values()))
        return tuple(stages)

    @cached_property
    def stage_slices(self) -> tuple[slice, ...]:
        """Where the genes of each stage are."""
        ends = np.cumsum(self.pairs).tolist()
        return tuple(slice(end - p, end) for p, end in zip(self.pairs, ends, strict=True))

    def stage_configs(self, *, distinct: bool = False) -> list[np.ndarray]:
        """Per stage, its configs in lexicographic order: uint8 [configs, pairs].

        distinct: one config for each row of kept counts, at the lowest levels that give it.
        """
        levels = self.distinct_levels if distinct else (self.levels,) * len(self.pairs)
        return [
            np.array(allowed, np.uint8)[_multisets(pairs, len(allowed))]
            for pairs, allowed in zip(self.pairs, levels, strict=True)
        ]

    def enumerate(self, *, distinct: bool = False) -> np.ndarray:
        """All configs in lexicographic order: uint8 [size, gene_count].

        distinct: one config for each key, [distinct_size, gene_count]. Raises ConfigError beyond
        100 million configs.
        """
        size = self.distinct_size if distinct else self.size
        if size > MAX_ENUMERATED:
            raise ConfigError(
                f"the space has {size:,} configs, too many to list; sample it, or allow "
                "fewer levels."
            )
        return product_rows(self.stage_configs(distinct=distinct))

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n configs, uniform over the space, with replacement: uint8 [n, gene_count]."""
        levels = np.array(self.levels, np.uint8)
        stages = []
        for pairs in self.pairs:
            # Stars and bars: `pairs` of pairs + levels - 1 places are a multiset of levels.
            places = rng.random((n, pairs + len(levels) - 1)).argsort(axis=1)[:, :pairs]
            places.sort(axis=1)
            stages.append(levels[places - np.arange(pairs)])
        return np.concatenate(stages, axis=1)

    def uniform(self) -> np.ndarray:
        """The uniform configs, one per level, densest first: uint8 [levels, gene_count]."""
        return np.repeat(np.array(self.levels, np.uint8)[:, None], self.gene_count, axis=1)

    def repair(self, genes: np.ndarray | Sequence[int]) -> np.ndarray:
        """Integers [n, genes] or [genes] made configs: each moved to the nearest allowed level (of
        two equally near ones the lower), then sorted within its stage. uint8, same shape."""
        rows = self._rows(genes)
        levels = np.array(self.levels)
        span = np.arange(levels[0], levels[-1] + 1)
        nearest = levels[np.abs(span[:, None] - levels).argmin(axis=1)].astype(np.uint8)
        repaired = nearest[np.clip(rows.astype(np.int64), span[0], span[-1]) - span[0]]
        for stage in self.stage_slices:
            repaired[..., stage].sort(axis=-1)
        return repaired

    def kept(self, genes: np.ndarray | Sequence[int]) -> np.ndarray:
        """Windows kept by every block pair: int32, the shape of genes ([n, genes] or [genes])."""
        rows = self._rows(genes)
        if rows.size and (rows.min() < 0 or rows.max() > MAX_LEVEL):
            raise ConfigError(f"a level lies between 0 and {MAX_LEVEL}.")
        return self._kept_table[np.arange(self.gene_count), rows]

    def canonical(self, genes: np.ndarray | Sequence[int]) -> np.ndarray:
        """Of the configs that keep the same windows, the one at the lowest allowed levels: uint8,
        the shape of genes. Candidates so written share more prefixes in the trie."""
        rows = self._rows(genes)
        return self._lowest_table[np.arange(self.gene_count), rows]

    def key(self, genes: np.ndarray | Sequence[int]) -> Genes:
        """What identifies one config: the kept count of every block pair."""
        return tuple(self.kept(genes).tolist())

    def _rows(self, genes: np.ndarray | Sequence[int]) -> np.ndarray:
        rows = np.asarray(genes)
        if rows.shape[-1:] != (self.gene_count,) or rows.dtype.kind not in "iu":
            raise ConfigError(
                f"a config of this space has {self.gene_count} integer levels, one per block pair."
            )
        return rows

    @cached_property
    def _kept_table(self) -> np.ndarray:
        rows = [[kept_windows(w, level) for level in LEVELS] for w in self.windows]
        return np.repeat(np.array(rows, np.int32), self.pairs, axis=0)

    @cached_property
    def _lowest_table(self) -> np.ndarray:
        """Per gene and level the lowest allowed level that keeps as much; uint8 [genes, 9]."""
        table = np.repeat(np.array([LEVELS], np.uint8), len(self.pairs), axis=0)
        for row, windows, lowest in zip(table, self.windows, self.distinct_levels, strict=True):
            by_count = {kept_windows(windows, level): level for level in lowest}
            for level in self.levels:
                row[level] = by_count[kept_windows(windows, level)]
        return np.repeat(table, self.pairs, axis=0)


def product_rows(stages: Sequence[np.ndarray]) -> np.ndarray:
    """Every combination of one row per stage, the last stage fastest: [product, sum of widths]."""
    sizes = [len(rows) for rows in stages]
    width = sum(rows.shape[1] for rows in stages)
    out = np.empty((*sizes, width), np.uint8)
    start = 0
    for axis, rows in enumerate(stages):
        shape = [1] * len(stages) + [rows.shape[1]]
        shape[axis] = len(rows)
        out[..., start : start + rows.shape[1]] = rows.reshape(shape)
        start += rows.shape[1]
    return out.reshape(-1, width)


@lru_cache(maxsize=64)
def _multisets(pairs: int, count: int) -> np.ndarray:
    """All non-descending rows of `pairs` indices below `count`, lexicographic, read-only."""
    if math.comb(pairs + count - 1, pairs) > MAX_ENUMERATED:
        raise ConfigError(
            f"a stage of {pairs} block pairs has too many configs to list at {count} levels; "
            "allow fewer levels."
        )
    rows = np.arange(count, dtype=np.uint8)[:, None]
    for _ in range(pairs - 1):
        last = rows[:, -1].astype(np.int64)
        repeats = count - last
        first = np.cumsum(repeats) - repeats
        following = np.arange(repeats.sum()) - np.repeat(first - last, repeats)
        rows = np.column_stack((np.repeat(rows, repeats, axis=0), following.astype(np.uint8)))
    rows.setflags(write=False)
    return rows


def _integers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    numbers = tuple(values)
    if any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) for v in numbers):
        raise ConfigError(f"{name} is {numbers}; give integers.")
    return tuple(int(v) for v in numbers)
