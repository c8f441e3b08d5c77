"""What a comparison is of: which rows, how many seeds, how long each row is trained and searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sparsevit.errors import ConfigError
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.latency_map import Scope
from sparsevit.search.steps import MEASURE_SECONDS


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Raises ConfigError for values that make no sense.

    sizes: (height, width) of the dense rows of reduced resolution; None: see `sizes.reduced_sizes`.
    widths: shares of the channels of the dense rows of reduced width. rule: which channels these
    keep, see sparsevit.swin.narrow.
    seeds: trainings of each row, with the seeds 0, 1, ...
    training: settings that replace those recommended for fine-tuning; their length is that of the
    dense row, whose time every other row gets. adapt_share: of this time, what a sparse row spends on
    adaptation; it is fine-tuned for the rest.
    scope: of the latency that sparse rows have to meet. evolution: of each search.
    measure_seconds: see Session. strict: whether latencies that other work disturbed end the
    comparison before anything is trained for budgets that cannot be believed.
    """

    sizes: tuple[tuple[int, int], ...] | None = None
    widths: tuple[float, ...] = (0.75, 0.5)
    rule: str = "l1"
    seeds: int = 3
    training: Mapping[str, Any] = field(default_factory=dict)
    adapt_share: float = 0.5
    scope: Scope = "model"
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    measure_seconds: float = MEASURE_SECONDS
    strict: bool = True

    def __post_init__(self) -> None:
        if self.sizes is not None and len(set(self.sizes)) < len(self.sizes):
            raise ConfigError("each reduced resolution is given once.")
        if len(set(self.widths)) < len(self.widths) or not all(0 < w < 1 for w in self.widths):
            raise ConfigError(f"reduced widths are different shares below 1, not {self.widths}.")
        if type(self.seeds) is not int or self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds!r}; it is a whole number from 1 on.")
        if not 0 < self.adapt_share < 1:
            raise ConfigError(f"adapt_share is {self.adapt_share!r}; it is a share of the time.")
        if self.scope not in ("model", "backbone"):
            raise ConfigError(f"scope is {self.scope!r}; it is model or backbone.")

    def question(self) -> dict[str, Any]:
        """What the rows depend on, JSON: all but how many seeds there are and how is measured."""
        document = asdict(self)
        for name in ("seeds", "measure_seconds", "strict"):
            del document[name]
        return document
