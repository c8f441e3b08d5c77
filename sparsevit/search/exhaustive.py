"""Exhaustive search: every distinct config within the budget, for spaces small enough.

Importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsevit.errors import ConfigError
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.moves import Evaluation
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes

MAX_EXHAUSTIVE = 20_000
"""Feasible configs; of more an evaluation each is out of reach, and evolution needs far fewer."""


def propose_exhaustive(
    space: SearchSpace,
    latency_map: LatencyMap,
    budget_ms: float,
    scope: Scope,
    settings: EvolutionSettings,
    history: Sequence[Evaluation],
    generation: int,
) -> list[Genes]:
    """Portion number `generation`, `population` configs, of all that are feasible.

    In lexicographic order: a portion shares the longest prefixes that there are. Neither the seed nor
    the history matters, nor `generations`: only `max_evaluations` may end it before the last config.
    Raises ConfigError where more than 20,000 configs are feasible.
    """
    feasible = FeasibleSet(space, latency_map, budget_ms, scope)
    if feasible.count > MAX_EXHAUSTIVE:
        raise ConfigError(
            f"{feasible.count:,} configs are within the budget, too many for an exhaustive search "
            f"(at most {MAX_EXHAUSTIVE:,}): allow fewer levels, or search by evolution."
        )
    rows = feasible.enumerate()
    rows = rows[np.lexsort(rows.T[::-1])]
    first = generation * settings.population
    portion = rows[first : first + settings.population]
    if settings.max_evaluations is not None:
        portion = portion[: max(0, settings.max_evaluations - first)]
    return [tuple(row) for row in portion.tolist()]
