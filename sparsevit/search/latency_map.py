"""LatencyMap: what every block pair costs at every level, so that any config's latency is a sum.

    predicted ms = fixed ms + sum over the block pairs of pair_ms[pair][level]

Block pairs add up (tried: a mean error of 1.2% over random configs), so one short calibration
predicts the whole space, and no search step waits for a timing. The released search times 500
forward passes for every proposal instead. Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from sparsevit.errors import ConfigError
from sparsevit.latency.digest import canonical_digest
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import MAX_LEVEL
from sparsevit.swin.config import SwinConfig

Scope = Literal["model", "backbone"]
SCOPES: tuple[Scope, ...] = ("model", "backbone")
SCHEMA_VERSION = 2

INPUT_FACTS = ("height", "width", "batch", "precision", "mode", "threads")
DEVICE_FACTS = ("kind", "model", "driver", "power_limit_w")
MAP_FACTS = ("architecture", "input", "score", "device", "versions")


@dataclass(frozen=True)
class LatencyMap:
    """A frozen table of latencies, all in milliseconds.

    key: map_key(facts). levels: the levels timed, ascending. pair_ms: [block pair][level index].
    fixed_ms: all that no ratio changes, the head included; backbone_fixed_ms: without the head.
    dense_ms: the whole dense model as measured, the head included. receipt: of the calibration.
    facts: everything the table depends on (`map_facts`). accuracy: how far off the map was for
    whole models measured beside it (sparsevit.latency.accuracy); None where none were.
    """

    key: str
    levels: tuple[int, ...]
    fixed_ms: float
    pair_ms: tuple[tuple[float, ...], ...]
    backbone_fixed_ms: float
    dense_ms: float
    receipt: dict[str, Any]
    facts: dict[str, Any]
    accuracy: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        rows = tuple(tuple(float(ms) for ms in row) for row in self.pair_ms)
        object.__setattr__(self, "levels", tuple(int(level) for level in self.levels))
        object.__setattr__(self, "pair_ms", rows)
        if not self.levels or any(a >= b for a, b in pairwise(self.levels)):
            raise ConfigError(f"a latency map needs ascending levels, not {self.levels}.")
        if self.levels[0] < 0 or self.levels[-1] > MAX_LEVEL:
            raise ConfigError(f"levels is {self.levels}; a level lies between 0 and {MAX_LEVEL}.")
        if not rows or any(len(row) != len(self.levels) for row in rows):
            raise ConfigError("a latency map needs one latency per level for every block pair.")
        numbers = [self.fixed_ms, self.backbone_fixed_ms, *(ms for row in rows for ms in row)]
        if not all(math.isfinite(ms) and ms >= 0 for ms in numbers):
            raise ConfigError("a latency map holds a latency that is negative or not finite.")
        if not (math.isfinite(self.dense_ms) and self.dense_ms > 0):
            raise ConfigError(f"dense_ms is {self.dense_ms}; it must be positive.")

    @property
    def architecture(self) -> SwinConfig:
        """The backbone that was timed."""
        names = {field.name for field in fields(SwinConfig)}
        stated = self.facts["architecture"]
        return SwinConfig.from_dict({k: v for k, v in stated.items() if k in names})

    @property
    def disturbed(self) -> bool:
        """Whether the device was not quiet while the map was made."""
        return bool(self.receipt.get("latency_ms", {}).get("disturbed", False))

    @cached_property
    def table(self) -> np.ndarray:
        """float64 [block pair, level 0..8] in ms; NaN where a level was not timed."""
        table = np.full((len(self.pair_ms), MAX_LEVEL + 1), np.nan)
        table[:, list(self.levels)] = self.pair_ms
        return table

    def fixed(self, scope: Scope = "model") -> float:
        """The fixed part of a scope, in ms."""
        if scope not in SCOPES:
            raise ConfigError(f"the latency scope is {scope!r}; it is one of {', '.join(SCOPES)}.")
        return self.fixed_ms if scope == "model" else self.backbone_fixed_ms

    def predict(
        self, genes: np.ndarray | Sequence[Any], scope: Scope = "model"
    ) -> np.ndarray | float:
        """Predicted ms of configs [n, genes] (float64 [n]) or of one config [genes] (a float).

        Raises ConfigError for a level the map does not hold.
        """
        rows = np.asarray(genes)
        if rows.ndim not in (1, 2) or rows.shape[-1] != len(self.pair_ms):
            raise ConfigError(f"the latency map is for configs of {len(self.pair_ms)} block pairs.")
        if rows.dtype.kind not in "iu" or (rows.size and not 0 <= rows.min() <= rows.max() < 9):
            raise ConfigError(f"a config holds integer levels between 0 and {MAX_LEVEL}.")
        ms = np.full(rows.shape[:-1], self.fixed(scope))
        for pair, costs in enumerate(self.table):
            ms += costs[rows[..., pair]]
        if np.isnan(ms).any():
            raise ConfigError(f"the latency map holds the levels {self.levels} only.")
        return ms if rows.ndim == 2 else float(ms)

    def predict_space(self, space: SearchSpace, scope: Scope = "model") -> np.ndarray:
        """Predicted ms of every config of a space, float64 [size], in the order of `enumerate`.

        Sums each stage once and adds the stages, so it needs no list of the configs.
        """
        ms = np.array([self.fixed(scope)])
        for costs in self.stage_ms(space, space.stage_configs()):
            ms = (ms[:, None] + costs).reshape(-1)
        return ms

    def stage_ms(self, space: SearchSpace, configs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Ms of each stage's configs (`SearchSpace.stage_configs`), fixed part left out."""
        if space.gene_count != len(self.pair_ms) or not set(space.levels) <= set(self.levels):
            raise ConfigError(
                f"the latency map ({len(self.pair_ms)} block pairs, levels {self.levels}) does not "
                f"cover the space ({space.gene_count} block pairs, levels {space.levels})."
            )
        sums, start = [], 0
        for rows in configs:
            pairs = np.arange(rows.shape[1])
            sums.append(self.table[start + pairs, rows].sum(axis=1))
            start += rows.shape[1]
        return sums

    def feasible(
        self, genes: np.ndarray | Sequence[Any], budget_ms: float, scope: Scope = "model"
    ) -> np.ndarray | bool:
        """Whether configs are predicted within the budget: bool [n], or one bool for one config."""
        within = self.predict(genes, scope) <= budget_ms
        return within if isinstance(within, np.ndarray) else bool(within)

    def range(self, scope: Scope = "model") -> tuple[float, float]:
        """Bounds (lowest, highest) of the predicted ms, each block pair taken by itself.

        They are reached where a pair gets no slower from level to level; FeasibleSet has the exact
        range of a space.
        """
        fixed = self.fixed(scope)
        low, high = (sum(f(row) for row in self.pair_ms) for f in (min, max))
        return fixed + low, fixed + high

    def to_dict(self) -> dict[str, Any]:
        """The JSON document; `from_dict` reads it back unchanged."""
        document = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        document["levels"] = list(self.levels)
        document["pair_ms"] = [list(row) for row in self.pair_ms]
        return document

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> LatencyMap:
        """Reads `to_dict`'s document. Raises ConfigError where it is another or a damaged one."""
        names = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or set(document) != names | {"schema_version"}:
            raise ConfigError("this is no latency map: its fields are not those of one.")
        if document["schema_version"] != SCHEMA_VERSION:
            raise ConfigError(
                f"the latency map has schema version {document['schema_version']}, this library "
                f"reads {SCHEMA_VERSION}: calibrate again."
            )
        try:
            return cls(**{name: document[name] for name in names})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"this is no latency map: {error}") from error


def map_facts(
    *,
    architecture: dict[str, Any],
    input: dict[str, Any],
    score: str,
    device: dict[str, Any],
    versions: dict[str, Any],
) -> dict[str, Any]:
    """Everything a latency map depends on, and no more.

    device: `sparsevit.latency.receipt.device_facts`; its model counts, not the single device's
    UUID. input: height, width, batch, precision, mode, threads. versions: torch, library, ...
    """
    missing = [n for n in INPUT_FACTS if n not in input] + [
        n for n in DEVICE_FACTS if n not in device
    ]
    if missing:
        raise ConfigError(f"the facts of a latency map lack {', '.join(missing)}.")
    return {
        "architecture": architecture,
        "input": {name: input[name] for name in INPUT_FACTS},
        "score": score,
        "device": {name: device[name] for name in DEVICE_FACTS},
        "versions": versions,
    }


def map_key(facts: dict[str, Any]) -> str:
    """The key of the map with these facts (`map_facts`): sha256 over their canonical JSON.

    A map holds both latency scopes, so the scope is not part of it.
    """
    if set(facts) != set(MAP_FACTS):
        raise ConfigError(f"the facts of a latency map are {', '.join(MAP_FACTS)}.")
    return canonical_digest(facts)
