"""A search, generation by generation, over any evaluator: the network's, or a table of its answers.

The service's coordinator takes the same way in steps that are stored (worker.generations). Importable
without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from sparsevit.metrics import Spec
from sparsevit.search import racing
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.history import History
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.moves import Evaluation
from sparsevit.search.racing import Folds
from sparsevit.search.space import SearchSpace
from sparsevit.search.stops import StopReason, next_turn
from sparsevit.sparsity.config import Genes

Progress = Callable[[int, int], None]  # (candidates evaluated, and with those of this generation)


@dataclass(frozen=True)
class Evaluator:
    """How configs are scored: on `images` images in `shards` shards (see `shard_indices`).

    on_shard: the folds of each config on one shard, `folds_of_shard(shards)` or one an image. spec:
    of their metric.
    """

    on_shard: Callable[[Sequence[Genes], int], Sequence[Folds]]
    spec: Spec
    images: int
    shards: int


def search(
    strategy: str,
    space: SearchSpace,
    latency_map: LatencyMap,
    budget_ms: float,
    scope: Scope,
    settings: EvolutionSettings,
    evaluator: Evaluator,
    progress: Progress | None = None,
) -> tuple[History, StopReason]:
    """Every candidate in the order of proposal, and why there are no more."""
    history = History()
    folds: dict[Genes, Folds] = {}
    for generation in count():
        turn = next_turn(
            strategy, space, latency_map, budget_ms, scope, settings, history, generation
        )
        if turn.stop is not None:
            break
        if progress is not None:
            progress(len(history), len(history) + len(turn.proposals))
        latencies = latency_map.predict(turn.proposals, scope).tolist()
        rivals = racing.rivals(strategy, settings, history, latencies)
        raced = _race(evaluator, turn.proposals, rivals, folds)
        history.extend(
            Evaluation(genes, generation, raced.metrics[i], latencies[i], raced.dropped.get(i))
            for i, genes in enumerate(turn.proposals)
        )
        folds |= dict(zip(turn.proposals, raced.folds, strict=True))
        folds = {one.genes: folds[one.genes] for one in racing.possible_rivals(history)}
    return history, turn.stop


def _race(
    evaluator: Evaluator,
    proposals: Sequence[Genes],
    rivals: Sequence[Evaluation | None],
    folds: dict[Genes, Folds],
) -> racing.Race:
    """A generation, evaluated as far as each of its candidates gets. folds: of all rivals."""

    def evaluate(live: list[int], shard: int) -> Sequence[Folds]:
        return evaluator.on_shard([proposals[i] for i in live], shard)

    rival_of = {i: one.genes for i, one in enumerate(rivals) if one is not None}
    return racing.race(
        len(proposals),
        rival_of,
        folds,
        evaluate,
        evaluator.spec,
        evaluator.images,
        evaluator.shards,
    )
