"""Draft: a generation being put together, of distinct, feasible configs. Importable without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.history import History
from sparsevit.sparsity.config import Genes

if TYPE_CHECKING:
    from sparsevit.search.evolution import EvolutionSettings

SAMPLE_ROUNDS = 16
MAX_LISTED = 2_000_000


class Draft:
    """The configs taken so far, in the order they came.

    rng: of this seed and generation. past: the evaluations before this generation; what keeps the
    same windows as one of them is not taken. wanted: how many the generation may have.
    """

    def __init__(
        self,
        feasible: FeasibleSet,
        settings: EvolutionSettings,
        past: History,
        generation: int,
    ) -> None:
        self.feasible, self.past = feasible, past
        self.rng = np.random.default_rng([settings.seed, generation])
        self.genes: list[Genes] = []
        self.wanted = settings.population if generation < settings.generations else 0
        if settings.max_evaluations is not None:
            self.wanted = max(0, min(self.wanted, settings.max_evaluations - len(past)))
        self._seen = set() if past.columns is None else set(self._keys(past.columns.genes))

    @property
    def missing(self) -> int:
        return self.wanted - len(self.genes)

    def add(self, rows: np.ndarray) -> None:
        """Takes the feasible and new of rows, in order, until as many stand as are wanted."""
        if self.missing > 0 and len(rows):
            rows = self.new(rows, self.missing)
            self._seen.update(self._keys(rows))
            self.genes += map(tuple, rows.tolist())

    def new(self, rows: np.ndarray, most: int | None = None) -> np.ndarray:
        """The canonical form of those of rows that may be taken, each once, in their order."""
        feasible = self.feasible
        rows = feasible.space.canonical(rows)
        rows = rows[feasible.latency_map.feasible(rows, feasible.budget_ms, feasible.scope)]
        places: dict[bytes, int] = {}
        for place, key in enumerate(self._keys(rows)):
            if len(places) == most:
                break
            if key not in self._seen:
                places.setdefault(key, place)
        return rows[list(places.values())]

    def fill(self) -> None:
        """Fills up with feasible configs never seen: drawn while that is quick, then listed."""
        for _ in range(SAMPLE_ROUNDS):
            if self.missing > 0:
                self.add(self.feasible.sample(self.rng, 2 * self.missing + 8))
        # Draws miss what is new only when most has been seen; the rest is then short to list.
        if self.missing > 0 and self.feasible.count <= MAX_LISTED:
            self.add(self.rng.permutation(self.feasible.enumerate()))

    def _keys(self, rows: np.ndarray) -> list[bytes]:
        """Configs are the same where their canonical genes are."""
        canonical = np.ascontiguousarray(self.feasible.space.canonical(rows))
        return canonical.view(f"V{rows.shape[1]}").reshape(-1).tolist()
