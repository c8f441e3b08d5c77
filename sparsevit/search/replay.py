"""Replay: whether the log of a search is what its seed gives.

Every generation is proposed anew from the evaluations before it, and compared with the log, candidate
by candidate. What was measured is taken from the log: metrics, and who racing dropped. Importable
without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.history import History
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.moves import Evaluation
from sparsevit.search.space import SearchSpace
from sparsevit.search.stops import StopReason, next_turn
from sparsevit.sparsity.config import Genes


@dataclass(frozen=True)
class Replayed:
    """One generation of the log. difference: the first one, in words; None: it is as the seed gives.

    proposals: how many the log has. stop: why the search ended there, without proposals.
    """

    generation: int
    proposals: int
    stop: StopReason | None = None
    difference: str | None = None


def replay(
    strategy: str,
    space: SearchSpace,
    latency_map: LatencyMap,
    budget_ms: float,
    scope: Scope,
    settings: EvolutionSettings,
    log: Sequence[Evaluation],
    stop: StopReason | None = None,
) -> Iterator[Replayed]:
    """Generation by generation, up to the first that differs.

    log: every candidate in the order of its proposal; those of the last generation may have no metric
    yet. stop: why the search ended, as stated; None where it has not: the end is not looked at then.
    """
    history = History.of(log)
    last = max((one.generation for one in history), default=-1)
    for generation in range(last + 1 if stop is None else last + 2):
        turn = next_turn(
            strategy, space, latency_map, budget_ms, scope, settings, history, generation
        )
        stored = [one for one in history if one.generation == generation]
        stated = stop if generation > last else None
        difference = _difference(stored, turn.proposals, latency_map, scope)
        if difference is None and turn.stop != stated:
            difference = f"the log ends here by {stated}, the settings by {turn.stop}"
        yield Replayed(generation, len(stored), stated, difference)
        if difference is not None:
            return


def _difference(
    stored: Sequence[Evaluation], proposals: Sequence[Genes], latency_map: LatencyMap, scope: Scope
) -> str | None:
    for position, (one, genes) in enumerate(zip(stored, proposals, strict=False)):
        if one.genes != genes:
            return f"candidate {position} is {one.genes} in the log, the seed gives {genes}"
        predicted = latency_map.predict(genes, scope)
        if one.latency_ms != predicted:
            return (
                f"candidate {position} takes {one.latency_ms} ms in the log, {predicted} ms by the "
                "latency map"
            )
    if len(stored) != len(proposals):
        return f"the log has {len(stored)} candidates, the seed gives {len(proposals)}"
    return None
