"""A job's rows, as the coordinator reads them: what was asked for, settled, measured and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from service.domain.records import Evaluation, Job, Unit
from service.domain.status import UnitKind
from sparsevit.search import choices, evolution, resolutions, stops
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.history import History
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.racing import Folds
from sparsevit.search.space import SearchSpace
from worker.evaluation_log import EvaluationLog


@dataclass(frozen=True)
class JobRows:
    """All that a step looks at, seen from one of the job's inputs.

    all_units, all_evaluations: of every input. latency_maps: one for each, None where it does not
    stand yet. resolution: the place of the input.
    """

    job: Job
    all_units: Sequence[Unit]
    all_evaluations: EvaluationLog
    latency_maps: Sequence[LatencyMap | None]
    rival_folds: Mapping[int, Folds] = field(default_factory=dict)
    resolution: int = 0

    def at(self, resolution: int) -> JobRows:
        """The same, seen from another input."""
        return replace(self, resolution=resolution)

    @property
    def inputs(self) -> list[JobRows]:
        """The view from each input."""
        assert self.job.inspection is not None, "a job past its inspection has one"
        return [self.at(i) for i in range(resolutions.count(self.job.inspection))]

    @property
    def reachable(self) -> list[JobRows]:
        """The views from the inputs at which the budget can be met."""
        told = self.job.resolutions
        return [one for one in self.inputs if told is None or told[one.resolution]["reachable"]]

    @cached_property
    def units(self) -> list[Unit]:
        """Those of this input."""
        return [unit for unit in self.all_units if unit.resolution == self.resolution]

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """Those of this input."""
        if self.job.resolutions is None:
            return [*self.all_evaluations]
        return [row for row in self.all_evaluations if row.resolution == self.resolution]

    @property
    def inspection(self) -> Mapping[str, Any]:
        """As it would be for this input alone."""
        assert self.job.inspection is not None, "a job past its inspection has one"
        return resolutions.at_resolution(self.job.inspection, self.resolution)

    def told(self, **changes: Any) -> list[dict[str, Any]] | None:
        """The job's `resolutions` with what has changed of this one; None of a job with one input."""
        if self.job.resolutions is None:
            return None
        rows = [dict(row) for row in self.job.resolutions]
        rows[self.resolution] |= changes
        return rows

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
        found = self.latency_maps[self.resolution]
        assert found is not None, "a job past its calibration has a latency map"
        return found

    @property
    def dense_ratio(self) -> float:
        """See `choices.dense_ratio`: a share as budget is one of the first input's."""
        return choices.dense_ratio(self.at(0).map, self.map, self.scope)

    @cached_property
    def feasible(self) -> FeasibleSet:
        """The configs predicted within the budget."""
        dense_ms = choices.dense_ms(self.at(0).map, self.scope)
        budget_ms = choices.parse_budget(self.budget, dense_ms)
        return FeasibleSet(self.space, self.map, budget_ms, self.scope)

    @property
    def planned(self) -> int:
        """How many evaluations the job makes, at most: known since its calibration."""
        known = self.job.progress.get("total")
        return self.planned_here if known is None else int(known)

    @property
    def planned_here(self) -> int:
        """How many of them at this input."""
        return stops.planned_evaluations(self.search["strategy"], self.settings, self.feasible)

    @property
    def history(self) -> History:
        """Ended evaluations before the first pending one, in the order of their proposal, whatever
        order they ended in."""
        return self.all_evaluations.history(self.resolution)

    @property
    def stop(self) -> str | None:
        """Why the search at this input has ended."""
        if self.job.resolutions is not None:
            return self.job.resolutions[self.resolution]["stop"]
        return self.job.progress.get("stop")

    @property
    def finetuned(self) -> bool:
        """Whether the winner was fine-tuned already."""
        return self.job.weights is not None and self.job.weights["source"] == "finetuned"

    def the(self, kind: UnitKind, shard: int = -1) -> Unit | None:
        """The one unit of this kind; where there are two, they differ by shard."""
        found = (unit for unit in self.units if (unit.kind, unit.shard) == (kind, shard))
        return next(found, None)


def map_keys(job: Job) -> list[str | None]:
    """The keys of the maps that a job uses, or could: those of its inspection, one an input."""
    if job.resolutions is not None:
        return [row["latency_map_key"] for row in job.resolutions]
    return [job.latency_map_key or (job.inspection or {}).get("latency_map_key")]


def searched_at(job: Job) -> int:
    """The input whose search is under way: one is searched after another."""
    for resolution, row in enumerate(job.resolutions or ()):
        if row["reachable"] and row["stop"] is None:
            return resolution
    return 0
