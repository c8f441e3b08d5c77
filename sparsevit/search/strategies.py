"""The strategies of a search, by name. Importable without torch.

evolution    latency-constrained evolution (evolution.py), the default
random       uniform over the feasible configs: what evolution has to beat
exhaustive   every feasible config of a small space (exhaustive.py)
released     the search as its authors released it (released.py), to compare with
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sparsevit.search.draft import Draft
from sparsevit.search.evolution import EvolutionSettings, baseline, propose
from sparsevit.search.exhaustive import propose_exhaustive
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.history import History
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.moves import Evaluation
from sparsevit.search.released import propose_released
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes


class Strategy(Protocol):
    """Proposes a generation: distinct, feasible configs that are not in the history.

    A pure function: the same seed, generation, evaluations before it (in any order) and latency map
    give the same proposals. [] means that all generations or evaluations are used up, or that
    nothing is left to propose; `sparsevit.search.stops` says which.
    """

    def __call__(
        self,
        space: SearchSpace,
        latency_map: LatencyMap,
        budget_ms: float,
        scope: Scope,
        settings: EvolutionSettings,
        history: Sequence[Evaluation],
        generation: int,
    ) -> list[Genes]: ...


def propose_random(
    space: SearchSpace,
    latency_map: LatencyMap,
    budget_ms: float,
    scope: Scope,
    settings: EvolutionSettings,
    history: Sequence[Evaluation],
    generation: int,
) -> list[Genes]:
    """One generation, uniform over the feasible configs that are new; the first begins, as that of
    evolution does, with the uniform configs."""
    past = History.of(history).before(generation)
    feasible = FeasibleSet(space, latency_map, budget_ms, scope)
    draft = Draft(feasible, settings, past, generation)
    if generation == 0:
        draft.add(baseline(feasible))
    draft.fill()
    return draft.genes


STRATEGIES: dict[str, Strategy] = {
    "evolution": propose,
    "random": propose_random,
    "exhaustive": propose_exhaustive,
    "released": propose_released,
}
