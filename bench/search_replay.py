"""Searches that look their candidates up in the exhaustive table instead of evaluating them.

Every strategy has the same table, the same latency map and the same budget: 70% of the dense latency
of the backbone. (Of 60%, a tenth of what is feasible is 19 configs: hardly more than one generation.)
Objectives are latency and negated metric; the reference point of the hypervolume is
the budget and the worst feasible metric: all that is feasible counts, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from bench.search_truth import Truth
from sparsevit.search import generations
from sparsevit.search.choices import dense_ms
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.generations import Evaluator
from sparsevit.search.latency_map import Scope
from sparsevit.search.pareto import hypervolume, pareto_front
from sparsevit.search.released import published_generations
from sparsevit.sparsity.config import Genes

POPULATION, PARENTS = 16, 4
SCOPE: Scope = "backbone"
BUDGET_SHARE = 0.7
GENERATIONS = 1000  # evaluations end a search here


@dataclass(frozen=True)
class Problem:
    """The table, cut at the budget."""

    truth: Truth
    share: float = BUDGET_SHARE

    @cached_property
    def budget_ms(self) -> float:
        return self.share * dense_ms(self.truth.latency_map, SCOPE)

    @cached_property
    def latency_ms(self) -> np.ndarray:
        return np.asarray(self.truth.latency_map.predict(self.truth.genes, SCOPE))

    @cached_property
    def feasible(self) -> np.ndarray:
        return self.latency_ms <= self.budget_ms

    @cached_property
    def objectives(self) -> np.ndarray:
        """[n, 2], minimised: ms, negated metric."""
        return np.column_stack((self.latency_ms, -self.truth.metric))

    @cached_property
    def reference(self) -> tuple[float, float]:
        return self.budget_ms, -float(self.truth.metric[self.feasible].min())

    @cached_property
    def front(self) -> np.ndarray:
        """Rows of the exhaustive front, fastest first."""
        rows = np.flatnonzero(self.feasible)
        return rows[pareto_front(self.objectives[rows])]

    @cached_property
    def best(self) -> float:
        """The best metric within the budget."""
        return float(self.truth.metric[self.feasible].max())

    def hypervolume(self, rows: Sequence[int]) -> float:
        """As a share of the exhaustive front's."""
        found = self.objectives[np.asarray(rows, np.int64)]
        return hypervolume(found, self.reference) / self._whole

    @cached_property
    def _whole(self) -> float:
        return hypervolume(self.objectives[self.front], self.reference)


@dataclass
class Trace:
    """What one search evaluated: rows of the table, generation by generation, in order.

    images: how many images each candidate was evaluated on, where racing may drop it. timed: how many
    configs of each generation had their latency measured; none where a map predicts it.
    """

    generations: list[list[int]] = field(default_factory=list)
    images: list[list[int]] = field(default_factory=list)
    timed: list[int] = field(default_factory=list)

    @property
    def rows(self) -> list[int]:
        return [row for generation in self.generations for row in generation]

    def add(self, rows: list[int], images: list[int], timed: int = 0) -> None:
        self.generations.append(rows)
        self.images.append(images)
        self.timed.append(timed)


def search(problem: Problem, name: str, seed: int, limit: int) -> Trace:
    """One search of at most `limit` evaluations; name: a strategy's, or "nsga2"."""
    runs = {"released": published, "nsga2": nsga2}
    if name in runs:
        return runs[name](problem, seed, limit)
    return proposed(problem, name, seed, limit)


def settings(seed: int, limit: int, racing: bool = False) -> EvolutionSettings:
    return EvolutionSettings(
        population=POPULATION,
        parents=PARENTS,
        generations=GENERATIONS,
        seed=seed,
        max_evaluations=limit,
        patience=None,
        racing=racing,
    )


def proposed(problem: Problem, name: str, seed: int, limit: int, racing: bool = False) -> Trace:
    """A strategy of the library."""
    truth, trace = problem.truth, Trace()
    evaluator = Evaluator(
        lambda configs, shard: truth.on_shard([truth.row(one) for one in configs], shard),
        *(truth.spec, truth.images, truth.shards),
    )
    history, _ = generations.search(
        *(name, truth.space, truth.latency_map, problem.budget_ms, SCOPE),
        *(settings(seed, limit, racing), evaluator),
    )
    for _, members in groupby(history, key=lambda one: one.generation):
        ended = list(members)
        images = [truth.images if one.dropped is None else one.dropped.images for one in ended]
        trace.add([truth.row(one.genes) for one in ended], images)
    return trace


def published(problem: Problem, seed: int, limit: int) -> Trace:
    """The released search as it was published: it evaluates its duplicates, too."""
    truth, trace = problem.truth, Trace()
    canonical = truth.space.canonical(truth.genes).tolist()
    scores: dict[Genes, float] = dict(zip(map(tuple, canonical), truth.metric, strict=True))
    asked = settings(seed, limit)
    for one in published_generations(
        truth.space, truth.latency_map, problem.budget_ms, SCOPE, asked, scores
    ):
        left = limit - len(trace.rows)
        rows = [truth.row(genes) for genes in one.proposals][:left]
        trace.add(rows, [truth.images] * len(rows), one.timed)
        if len(trace.rows) == limit:
            break
    return trace


def nsga2(problem: Problem, seed: int, limit: int) -> Trace:
    """pymoo's NSGA-II on integer genes, repaired to be non-descending, the budget as a constraint.

    What it asks for beyond the budget is not counted: the latency map says so before an evaluation.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.core.repair import Repair
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    truth, trace = problem.truth, Trace()
    levels = np.array(truth.space.levels)

    class NonDescending(Repair):
        def _do(self, problem: Any, X: np.ndarray, **kwargs: Any) -> np.ndarray:
            places = np.clip(np.round(X).astype(int), 0, len(levels) - 1)
            return np.searchsorted(levels, truth.space.repair(levels[places]))

    class Table(PymooProblem):
        def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            rows = [truth.row(tuple(genes)) for genes in levels[x.astype(int)].tolist()]
            within = [row for row in rows if problem.feasible[row]]
            trace.add(within, [truth.images] * len(within))
            out["F"] = problem.objectives[rows]
            out["G"] = problem.latency_ms[rows, None] - problem.budget_ms

    repair = NonDescending()
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=SBX(vtype=float, repair=repair),
        mutation=PM(vtype=float, repair=repair),
        repair=repair,
    )
    asked = Table(
        n_var=truth.space.gene_count, n_obj=2, n_ieq_constr=1, xl=0, xu=len(levels) - 1, vtype=int
    )
    algorithm.setup(asked, termination=("n_gen", GENERATIONS), seed=seed, verbose=False)
    while len(trace.rows) < limit and algorithm.has_next():
        algorithm.next()
    beyond = len(trace.rows) - limit
    if beyond > 0:
        del trace.generations[-1][-beyond:], trace.images[-1][-beyond:]
    return trace
