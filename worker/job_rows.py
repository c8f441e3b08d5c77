"""A job's rows, as the coordinator reads them: what was asked for, settled, measured and scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from service.domain.records import Evaluation, Job, Unit
from service.domain.status import EvaluationState, UnitKind
from sparsevit.search import choices, evolution, stops
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.moves import Dropped
from sparsevit.search.racing import Folds
from sparsevit.search.space import SearchSpace


@dataclass(frozen=True)
class JobRows:
    """All that a step looks at."""

    job: Job
    units: Sequence[Unit]
    evaluations: Sequence[Evaluation]
    latency_map: LatencyMap | None
    rival_folds: Mapping[int, Folds] = field(default_factory=dict)

    @property
    def inspection(self) -> Mapping[str, Any]:
        assert self.job.inspection is not None, "a job past its inspection has one"
        return self.job.inspection

    @property
    def scope(self) -> str:
        return self.job.request["latency_scope"]

    @property
    def search(self) -> Mapping[str, Any]:
        return self.job.request["search"]

    @property
    def settings(self) -> evolution.EvolutionSettings:
        names = {one.name for one in fields(evolution.EvolutionSettings)}
        # Jobs of an older version do not have them all.
        given = {name: value for name, value in self.search.items() if name in names}
        return evolution.EvolutionSettings(**given)

    @property
    def space(self) -> SearchSpace:
        return choices.search_space(self.inspection, self.search["levels"])

    @property
    def budget(self) -> float | str:
        """As asked for: milliseconds or a share of dense."""
        request = self.job.request
        return request["latency_budget_ms"] or request["latency_budget"]

    @property
    def map(self) -> LatencyMap:
        assert self.latency_map is not None, "a job past its calibration has a latency map"
        return self.latency_map

    @cached_property
    def feasible(self) -> FeasibleSet:
        """The configs predicted within the budget."""
        dense_ms = choices.dense_ms(self.map, self.scope)
        budget_ms = choices.parse_budget(self.budget, dense_ms)
        return FeasibleSet(self.space, self.map, budget_ms, self.scope)

    @property
    def planned(self) -> int:
        """How many evaluations the search makes, at most."""
        return stops.planned_evaluations(self.search["strategy"], self.settings, self.feasible)

    @property
    def history(self) -> list[evolution.Evaluation]:
        """Ended evaluations in the order of their proposal, whatever order they ended in."""
        ended = [row for row in self.evaluations if row.state != EvaluationState.PENDING]
        ended.sort(key=lambda row: (row.generation, row.position))
        return [_ended(row) for row in ended]

    @property
    def finetuned(self) -> bool:
        """Whether the winner was fine-tuned already."""
        return self.job.weights is not None and self.job.weights["source"] == "finetuned"

    def the(self, kind: UnitKind, shard: int = -1) -> Unit | None:
        """The job's one unit of this kind; where there are two, they differ by shard."""
        found = (unit for unit in self.units if (unit.kind, unit.shard) == (kind, shard))
        return next(found, None)


def _ended(row: Evaluation) -> evolution.Evaluation:
    genes, dropped = tuple(row.genes), None
    if row.state == EvaluationState.DROPPED:
        low, high = row.metric_interval or (0.0, 1.0)
        dropped = Dropped(row.metric or 0.0, (low, high), row.images or 0)
    done = row.state == EvaluationState.DONE and row.metric is not None
    metric = row.metric if done else math.nan
    return evolution.Evaluation(genes, row.generation, metric, row.latency_ms, dropped)
