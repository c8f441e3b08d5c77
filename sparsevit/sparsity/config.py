"""SparsityConfig: one sparsity ratio per block pair of one network, and the score that ranks windows.

Ratios are tenths (level k of 10), so that kept counts are exact integer arithmetic: `int(n * (1 - r))`
loses a window to float error. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsevit.errors import ConfigError

MAX_LEVEL = 8
SCORE_NAMES = ("l2", "mean_abs", "variance", "late", "released", "random")
DEFAULT_SCORE = "variance"  # by the evidence in sparsevit/data/digits-supernet.md

Genes = tuple[int, ...]


def kept_windows(windows: int, level: int) -> int:
    """Windows computed of `windows` at level k of 10: max(1, n * (10 - k) // 10)."""
    return max(1, windows * (10 - level) // 10)


def split_genes(genes: Sequence[int], pairs: Sequence[int]) -> tuple[Genes, ...]:
    """The flat genes, cut into one tuple per stage; `pairs` holds the block pairs of each stage."""
    if len(genes) != sum(pairs):
        raise ConfigError(
            f"{len(genes)} levels were given for {sum(pairs)} block pairs; "
            f"give one per block pair: {tuple(pairs)} by stage."
        )
    stages, start = [], 0
    for count in pairs:
        stages.append(tuple(int(g) for g in genes[start : start + count]))
        start += count
    return tuple(stages)


def block_pairs(depths: Sequence[int]) -> tuple[int, ...]:
    """Block pairs per stage; every stage must hold whole pairs (a regular and a shifted block)."""
    odd = [i for i, depth in enumerate(depths) if depth % 2]
    if odd:
        raise ConfigError(
            f"stage {odd[0]} has {depths[odd[0]]} blocks; a sparsity ratio belongs to a pair of a "
            "regular and a shifted block, so each stage needs an even number of blocks."
        )
    return tuple(depth // 2 for depth in depths)


@dataclass(frozen=True)
class SparsityConfig:
    """Every ratio of one network, and its score.

    ratios: [stage][block pair], each in {0, .1, ..., .8}, non-descending within a stage
    (a dropped window never comes back; paper, section 3.2).
    score: name of the window score (sparsevit.sparsity.score), or of one registered there.
    """

    ratios: tuple[tuple[float, ...], ...]
    score: str = DEFAULT_SCORE

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", tuple(tuple(float(r) for r in s) for s in self.ratios))
        if not isinstance(self.score, str) or not self.score:
            raise ConfigError(f"score must be a name such as {', '.join(SCORE_NAMES)}.")
        for stage, ratios in enumerate(self.ratios):
            levels = [_level(r, stage) for r in ratios]
            if levels != sorted(levels):
                raise ConfigError(
                    f"stage {stage} has ratios {list(ratios)}; they must not fall within a stage, "
                    f"since a dropped window never comes back. Try {sorted(ratios)}."
                )

    @property
    def levels(self) -> tuple[Genes, ...]:
        """Integer levels, [stage][block pair]."""
        return tuple(tuple(round(r * 10) for r in stage) for stage in self.ratios)

    @property
    def genes(self) -> Genes:
        """Flat levels, one per block pair, stage after stage."""
        return tuple(level for stage in self.levels for level in stage)

    @property
    def pairs(self) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.ratios)

    @property
    def is_dense(self) -> bool:
        return not any(self.genes)

    @classmethod
    def from_genes(
        cls, genes: Sequence[int], pairs: Sequence[int], score: str = DEFAULT_SCORE
    ) -> SparsityConfig:
        return cls(tuple(tuple(g / 10 for g in s) for s in split_genes(genes, pairs)), score)

    @classmethod
    def uniform(
        cls, pairs: Sequence[int], ratio: float, score: str = DEFAULT_SCORE
    ) -> SparsityConfig:
        return cls(tuple((ratio,) * count for count in pairs), score)

    @classmethod
    def dense(cls, pairs: Sequence[int], score: str = DEFAULT_SCORE) -> SparsityConfig:
        return cls.uniform(pairs, 0.0, score)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> SparsityConfig:
        """Reads `sparsity` and `score` of a config document; other keys are not looked at."""
        try:
            ratios = tuple(_numbers(stage) for stage in document["sparsity"])
        except (KeyError, TypeError) as error:
            raise ConfigError(
                "a config needs `sparsity`: a list of stages, each a list with one ratio per "
                "block pair, such as [[0.3], [0.1], [0.5, 0.5, 0.6]]."
            ) from error
        return cls(ratios, document.get("score", DEFAULT_SCORE))

    def to_dict(self) -> dict[str, Any]:
        return {"sparsity": [list(stage) for stage in self.ratios], "score": self.score}

    def check_depths(self, depths: Sequence[int]) -> None:
        """Raises ConfigError unless the config fits a network with `depths` blocks per stage."""
        expected = block_pairs(depths)
        if self.pairs != expected:
            raise ConfigError(
                f"the config has {list(self.pairs)} block pairs per stage, the network "
                f"{list(expected)}: it was made for another architecture."
            )


def _numbers(stage: Iterable[Any]) -> tuple[float, ...]:
    values = tuple(stage)
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise TypeError("a ratio is no number")
    return tuple(float(v) for v in values)


def _level(ratio: float, stage: int) -> int:
    level = round(ratio * 10) if ratio == ratio and abs(ratio) < 10 else -1
    if not 0 <= level <= MAX_LEVEL or abs(level / 10 - ratio) > 1e-9:
        raise ConfigError(
            f"stage {stage} has the ratio {ratio}; a ratio is one of 0, 0.1, ..., 0.{MAX_LEVEL}."
        )
    return level
