"""The released search of SparseViT, to compare with (paper, section 3.4; arXiv 2303.17605).

    generation 0   random ratios, sorted within each stage
    generation g   parents = the best by metric of all so far; half of the population by mutation,
                   half by uniform crossover, sorted within each stage
    each draw      is timed, and thrown away where it is too slow; at most 10,000 a time

What is kept as published, though it costs evaluations or quality:
 - random ratios that are sorted are not uniform over the configs: even ones come up too seldom;
 - mutants may equal their parent, children too; duplicates fill the population and the parents;
 - what is told apart is ratios, not kept windows;
 - parents by metric alone: all of them crowd at the budget, and no front is kept;
 - every draw is timed, feasible or not.

What is not kept:
 - timing itself: latencies come from the frozen map, without noise. How many draws the published
   search would have timed is counted (`Published.timed`);
 - the lower end of the latency window: it decides only which piece of the front is searched;
 - its crashes, and a window lost to float error in the kept counts;
 - in `propose_released` a duplicate is drawn and bred from as published, but not evaluated again: a
   config counts once in a job. Evaluations it pays for twice are seen in `Published.proposals`.

Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.history import History
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.moves import Evaluation
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes

MAX_DRAWS = 10_000


@dataclass(frozen=True)
class Published:
    """One generation as published. proposals: in order, duplicates among them. timed: draws whose
    latency it would have measured, `proposals` included."""

    proposals: list[Genes]
    timed: int


def published_generations(
    space: SearchSpace,
    latency_map: LatencyMap,
    budget_ms: float,
    scope: Scope,
    settings: EvolutionSettings,
    metrics: Mapping[Genes, float],
) -> Iterator[Published]:
    """The generations as published, at most settings.generations.

    metrics: of configs by their canonical genes (`SearchSpace.canonical`); when the next generation
    is asked for it must hold all proposals of this one. NaN: the evaluation failed.
    """
    parents = np.empty((0, space.gene_count), np.uint8)
    scores = np.empty(0)
    for generation in range(settings.generations):
        rng = np.random.default_rng([settings.seed, generation])
        rows, timed = np.empty((0, space.gene_count), np.uint8), 0
        for draw, count in _draws(space, rng, parents, settings):
            drawn = draw()
            fits = np.flatnonzero(latency_map.feasible(drawn, budget_ms, scope))[:count]
            timed += int(fits[-1]) + 1 if len(fits) == count else len(drawn)
            rows = np.concatenate((rows, drawn[fits]))
        if not len(rows):
            return
        yield Published(_tuples(rows), timed)
        found = np.array([metrics[genes] for genes in _tuples(space.canonical(rows))])
        parents, scores = np.concatenate((parents, rows)), np.concatenate((scores, found))
        best = np.argsort(-scores, kind="stable")  # NaN goes last
        best = best[np.isfinite(scores[best])][: settings.parents]
        parents, scores = parents[best], scores[best]


def propose_released(
    space: SearchSpace,
    latency_map: LatencyMap,
    budget_ms: float,
    scope: Scope,
    settings: EvolutionSettings,
    history: Sequence[Evaluation],
    generation: int,
) -> list[Genes]:
    """What is new in the next published generation that proposes anything new.

    The published generations are drawn anew from the first on, with the metrics of the history, up to
    the first that needs an evaluation: a pure function, as the other strategies are.
    """
    past = History.of(history).before(generation)
    known = {} if past.columns is None else _metrics(space, past)
    limit = math.inf if settings.max_evaluations is None else settings.max_evaluations - len(past)
    if generation >= settings.generations or limit < 1:
        return []
    for published in published_generations(space, latency_map, budget_ms, scope, settings, known):
        proposed = _tuples(space.canonical(np.array(published.proposals, np.uint8)))
        first = dict(zip(reversed(proposed), reversed(published.proposals), strict=True))
        new = [first[key] for key in dict.fromkeys(proposed) if key not in known]
        if new:
            return new[: int(min(limit, len(new)))]
    return []


def _draws(
    space: SearchSpace, rng: np.random.Generator, parents: np.ndarray, settings: EvolutionSettings
) -> list[tuple[Callable[[], np.ndarray], int]]:
    """(10,000 draws of one kind, how many feasible ones are wanted), kind by kind."""
    levels, shape = np.array(space.levels, np.uint8), (MAX_DRAWS, space.gene_count)

    def anything() -> np.ndarray:
        return space.repair(rng.choice(levels, shape))

    def one_of_them() -> np.ndarray:
        return parents[rng.integers(len(parents), size=MAX_DRAWS)]

    def mutants() -> np.ndarray:
        changes = rng.random(shape) < settings.mutation
        return space.repair(np.where(changes, rng.choice(levels, shape), one_of_them()))

    def children() -> np.ndarray:
        return space.repair(np.where(rng.random(shape) < 0.5, one_of_them(), one_of_them()))

    if not len(parents):
        return [(anything, settings.population)]
    half = settings.population // 2
    return [(mutants, half), (children, settings.population - half)]


def _metrics(space: SearchSpace, past: History) -> dict[Genes, float]:
    assert past.columns is not None
    genes = _tuples(space.canonical(past.columns.genes))
    return dict(zip(genes, past.columns.metric.tolist(), strict=True))


def _tuples(rows: np.ndarray) -> list[Genes]:
    return [tuple(row) for row in rows.tolist()]
