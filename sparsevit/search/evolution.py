"""Latency-constrained evolution: which configs to evaluate next.

    generation 0   the uniform configs (the baseline), then configs spread over latency
    generation g   parents = the best of the whole history; many offspring by mutation, as many by
                   crossover, as many from anywhere; those that promise most are proposed

`propose` keeps no state: the same seed, generation, finished evaluations (in any order) and latency
map give the same proposals, so a search resumes from its log and replays. Only configs within the
budget by the map are proposed, and none that keeps the same windows as one evaluated before.

After SparseViT's search (paper, section 3.4; NSGA-II's survival), with these deviations:
 - the paper times every proposal and drops those outside its latency window; the map filters here;
 - the paper's parents are the best by metric alone, those of NSGA-II the best front. The winner is
   the best metric within the budget, and far from the budget nothing is won, so the better half
   of the parents goes by metric, and the other half by rank and crowding keeps variety;
 - its population is refilled with duplicates; proposals here are distinct over the whole history;
 - at least one gene of a mutant changes, mostly by one level, and crossover cuts once: offspring
   share prefixes, which are evaluated once (moves.py);
 - many more offspring are made than proposed: a surrogate fitted to the history tells which of them
   may move the front (promising.py).

Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsevit.errors import ConfigError
from sparsevit.search.draft import Draft
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.history import History
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.moves import Evaluation, crossover, mutate, select_parents
from sparsevit.search.promising import most_promising
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes

OFFSPRING, MOST_OFFSPRING = 16, 4096
"""So many mutants, and children, and others are made for each of the population; the second, or one for
each, where the population is large: looking at all of them takes time."""
FEWEST_SCORED = 4
LATENCY_BANDS = 8
NEAR_BUDGET = 0.1  # the top band: this share of the way from the budget to the fastest config


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """How a search runs. Raises ConfigError for a value that makes no sense.

    population: proposals per generation. parents: survivors that offspring come from.
    mutation: probability that a gene of a mutant changes. max_evaluations: of the whole search.
    patience: generations with hardly a gain that end the search (stops.py); None: it goes on.
    racing: candidates that are surely beaten are not evaluated on all images (see racing.py).
    """

    population: int = 100
    parents: int = 25
    generations: int = 30
    mutation: float = 0.1
    seed: int = 0
    max_evaluations: int | None = None
    patience: int | None = 8
    racing: bool = True

    def __post_init__(self) -> None:
        for name in ("population", "generations", "parents", "max_evaluations", "patience"):
            value = getattr(self, name)
            optional = name in ("max_evaluations", "patience")
            if not (optional and value is None) and (not _is_whole(value) or value < 1):
                left_out = ", or left out" if optional else ""
                raise ConfigError(f"{name} is {value!r}; it is a whole number from 1 on{left_out}.")
        if self.parents > self.population:
            raise ConfigError(
                f"parents is {self.parents}, population {self.population}; there are at most as "
                "many parents as candidates in a generation."
            )
        if not 0 <= self.mutation <= 1:
            raise ConfigError(f"mutation is {self.mutation}; it is a probability, 0 to 1.")
        if not _is_whole(self.seed) or not 0 <= self.seed < 2**64:
            raise ConfigError("seed is a whole number between 0 and 2**64 - 1.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def propose(
    space: SearchSpace,
    latency_map: LatencyMap,
    budget_ms: float,
    scope: Scope,
    settings: EvolutionSettings,
    history: Sequence[Evaluation],
    generation: int,
) -> list[Genes]:
    """The configs of one generation by evolution: a pure function of its arguments.

    history: every finished evaluation of the generations before, in any order; later ones are
    ignored, so that a log replays. [] means that the search is over.
    """
    past = History.of(history).before(generation)
    draft = Draft(FeasibleSet(space, latency_map, budget_ms, scope), settings, past, generation)
    if generation == 0:
        draft.add(baseline(draft.feasible))
        draft.add(_spread(draft.feasible, draft.rng, draft.missing))
    else:
        _breed(draft, settings)
    draft.fill()
    return draft.genes


def baseline(feasible: FeasibleSet) -> np.ndarray:
    """The uniform configs, nearest to the budget first."""
    rows = feasible.space.uniform()
    ms = feasible.latency_map.predict(rows, feasible.scope)
    return rows[np.argsort(-ms, kind="stable")]


def _spread(feasible: FeasibleSet, rng: np.random.Generator, n: int) -> np.ndarray:
    """About 2n feasible configs, one near the budget and one from anywhere in latency in turn.

    Uniform draws would crowd around the middle latency, where most configs are.
    """
    reach = feasible.budget_ms - feasible.min_ms
    if n < 1 or reach < 0:
        return np.empty((0, feasible.space.gene_count), np.uint8)
    near = feasible.sample(rng, n, above_ms=feasible.budget_ms - NEAR_BUDGET * reach)
    edges = feasible.min_ms + reach * np.arange(1, LATENCY_BANDS + 1) / LATENCY_BANDS
    floors = [-math.inf, *edges]
    each = -(-n // LATENCY_BANDS)
    bands = [
        feasible.sample(rng, each, above_ms=low, up_to_ms=high)
        for low, high in zip(floors, edges, strict=False)
    ]
    anywhere = rng.permutation(np.concatenate(bands))
    both = min(len(near), len(anywhere))
    pairs = np.stack((near[:both], anywhere[:both]), axis=1).reshape(-1, near.shape[1])
    return np.concatenate((pairs, near[both:], anywhere[both:]))


def _breed(draft: Draft, settings: EvolutionSettings) -> None:
    """The most promising of many offspring: mutants and children of the parents, and others from
    anywhere; of everything, where that is no more. Where hardly anything is scored, all are equal."""
    feasible, population = draft.feasible, settings.population
    many = max(population, min(OFFSPRING * population, MOST_OFFSPRING))
    survivors = select_parents(draft.past, feasible.budget_ms, settings.parents)
    if not draft.wanted or not len(survivors):
        return
    if feasible.count <= 3 * many:
        pool = feasible.enumerate()
    else:
        mutants = mutate(feasible.space, draft.rng, survivors, settings.mutation, many)
        children = crossover(feasible.space, draft.rng, survivors, many)
        pool = np.concatenate((mutants, children, feasible.sample(draft.rng, many)))
    pool = draft.rng.permutation(draft.new(pool))
    scored = draft.past.scored
    if len(pool) and len(scored.metric) >= FEWEST_SCORED:
        latency_map, scope, budget_ms = feasible.latency_map, feasible.scope, feasible.budget_ms
        pool = most_promising(pool, latency_map, scope, scored, budget_ms, draft.wanted, draft.rng)
    draft.add(pool)
