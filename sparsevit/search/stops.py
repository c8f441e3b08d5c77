"""When a search is over, and why: a pure function of its settings and its history.

    generations   all generations were proposed
    evaluations   max_evaluations were made
    no_gain       the Pareto front gained less than a thousandth of its hypervolume in `patience`
                  generations
    exhausted     the strategy has nothing new to propose: as a rule every feasible config is known

An exhaustive search ends by the last config, or by `max_evaluations`, alone.

Importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.history import Columns, History
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.moves import Evaluation
from sparsevit.search.pareto import hypervolume, pareto_front
from sparsevit.search.space import SearchSpace
from sparsevit.search.strategies import STRATEGIES
from sparsevit.sparsity.config import Genes

StopReason = Literal["generations", "evaluations", "no_gain", "exhausted"]
EXHAUSTIVE, RELEASED = "exhaustive", "released"

BEYOND = 0.1
"""The reference point lies this share of the reach beyond the budget, so that the configs at the
budget, among them the winner, count too."""

LEAST_GAIN = 0.001
"""Share of the hypervolume. The fast end of a front goes on growing by trifles for long; on synthetic
metrics a search that gained less in 8 generations was .3% from where 40 generations took it."""


@dataclass(frozen=True)
class Turn:
    """What a search does next: evaluate `proposals`, or end because of `stop`."""

    proposals: list[Genes]
    stop: StopReason | None = None


def next_turn(
    strategy: str,
    space: SearchSpace,
    latency_map: LatencyMap,
    budget_ms: float,
    scope: Scope,
    settings: EvolutionSettings,
    history: Sequence[Evaluation],
    generation: int,
) -> Turn:
    """Generation number `generation` by a strategy's name, or why there is none."""
    past = History.of(history).before(generation)
    stop = stop_reason(strategy, settings, past, generation)
    if stop is not None:
        return Turn([], stop)
    proposals = STRATEGIES[strategy](
        space, latency_map, budget_ms, scope, settings, past, generation
    )
    if proposals:
        return Turn(proposals)
    # Published generations without anything new have no number in a log.
    used_up = strategy == RELEASED and len(past) > 0
    return Turn([], "generations" if used_up else "exhausted")


def stop_reason(
    strategy: str, settings: EvolutionSettings, history: Sequence[Evaluation], generation: int
) -> StopReason | None:
    """Why `generation` is not proposed; None where nothing but an exhausted space can stop it."""
    past = History.of(history).before(generation)
    if settings.max_evaluations is not None and len(past) >= settings.max_evaluations:
        return "evaluations"
    if strategy == EXHAUSTIVE:
        return None
    if generation >= settings.generations:
        return "generations"
    if settings.patience is not None and not _gained(past, generation - settings.patience):
        return "no_gain"
    return None


def planned_evaluations(strategy: str, settings: EvolutionSettings, feasible: FeasibleSet) -> int:
    """How many evaluations the search makes, at most."""
    planned = feasible.count
    if strategy != EXHAUSTIVE:
        planned = min(planned, settings.population * settings.generations)
    return min(planned, settings.max_evaluations or planned)


def _gained(past: History, since: int) -> bool:
    """Whether the front has gained since generation `since` began."""
    columns = past.columns
    if since < 1 or columns is None:
        return True
    scored = columns.where(np.isfinite(columns.metric))
    before = scored.where(scored.generation < since)
    if not len(before.metric):
        return True
    # One reference for both, made of what was there before.
    slowest, fastest = before.latency_ms.max(), before.latency_ms.min()
    reference = (slowest + BEYOND * (slowest - fastest), -before.metric.min())
    old, new = _objectives(before), _objectives(scored.where(scored.generation >= since))
    front = old[pareto_front(old)]
    grown = hypervolume(np.concatenate((front, new)), reference)
    return grown > (1 + LEAST_GAIN) * hypervolume(front, reference)


def _objectives(columns: Columns) -> np.ndarray:
    return np.stack((columns.latency_ms, -columns.metric), axis=1)
