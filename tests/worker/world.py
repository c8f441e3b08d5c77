"""A job that lives in memory: the coordinator without a database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from service.domain.records import Ending, Evaluation, Unit
from service.domain.status import EvaluationState, UnitState
from sparsevit import metrics
from sparsevit.search.latency_map import LatencyMap
from tests.worker.rows import NOW, job, simulated_result, unit
from worker.coordinator import step
from worker.decisions import WAIT, Decision, Generation
from worker.job_rows import map_keys


def _changes(ending: Ending) -> dict[str, Any]:
    columns = ("state", "metric", "metric_interval", "images", "error")
    return {name: getattr(ending, name) for name in columns}


class World:
    """One job in memory: `settle` takes steps until it waits, `finish` ends a pending unit."""

    def __init__(self, standing: LatencyMap | None = None, **changes: Any) -> None:
        self.job = job(**changes)
        self.units: list[Unit] = []
        self.evaluations: list[Evaluation] = []
        self.folds: dict[int, Any] = {}
        self.maps = {standing.key: standing} if standing else {}
        self.decisions: list[Decision] = []

    @property
    def pending(self) -> list[Unit]:
        return [unit for unit in self.units if unit.state == UnitState.PENDING]

    @property
    def rival_folds(self) -> dict[int, Any]:
        pending = [row for row in self.evaluations if row.state == EvaluationState.PENDING]
        return {
            row.rival_id: metrics.joined([self.folds[row.rival_id]], self.job.inspection["metric"])
            for row in pending
            if row.rival_id is not None
        }

    def settle(self) -> None:
        while True:
            maps = [self.maps.get(key) for key in map_keys(self.job)]
            decision = step(self.job, self.units, self.evaluations, maps, self.rival_folds)
            if decision == WAIT:
                return
            self.decisions.append(decision)
            self._apply(decision)

    def finish(self, unit: Unit, result: Mapping[str, Any] | None = None) -> None:
        ended = replace(unit, state=UnitState.DONE, result=dict(result or simulated_result(unit)))
        self.units[self.units.index(unit)] = ended

    def fail(self, unit: Unit, code: str) -> None:
        error = {"code": code, "message": "what to do"}
        self.units[self.units.index(unit)] = replace(unit, state=UnitState.FAILED, error=error)

    def give_up(self, unit: Unit, error: Mapping[str, Any]) -> None:
        ended = replace(unit, state=UnitState.BROKEN, error=dict(error))
        self.units[self.units.index(unit)] = ended

    def run(self, pick: Callable[[list[Unit]], Unit] = lambda pending: pending[0]) -> None:
        """To the end, the next unit chosen by `pick`."""
        self.settle()
        while self.pending:
            self.finish(pick(self.pending))
            self.settle()

    def _apply(self, decision: Decision) -> None:
        row = self.job
        changes: dict[str, Any] = {"verdicts": [*row.verdicts, *decision.verdicts]}
        columns = ("stage", "inspection", "device", "latency_map_key", "latency", "progress")
        columns += ("weights", "front", "artefacts", "resolutions")
        for name in columns:
            if getattr(decision, name) is not None:
                changes[name] = getattr(decision, name)
        if decision.latency_map is not None:
            self.maps[decision.latency_map["key"]] = LatencyMap.from_dict(decision.latency_map)
        for new in decision.units:
            self.units.append(
                unit(
                    new.kind,
                    id=len(self.units) + 1,
                    generation=new.generation,
                    shard=new.shard,
                    part=new.part,
                    resolution=new.resolution,
                    payload=dict(new.payload),
                )
            )
        if decision.generation is not None:
            for position, proposal in enumerate(decision.generation.proposals):
                self._propose(decision.generation, position, proposal)
        ended = {one.evaluation_id: _changes(one) for one in decision.endings}
        self.evaluations = [
            replace(row, **ended[row.id], finished_at=NOW) if row.id in ended else row
            for row in self.evaluations
        ]
        self.folds |= {one.evaluation_id: one.folds for one in decision.endings}
        if decision.end is not None:
            changes |= {
                "status": decision.end.status,
                "error": decision.end.error,
                "result": decision.end.document,
            }
            self.units = [u for u in self.units if u.state != UnitState.PENDING]
        self.job = replace(row, **changes)

    def _propose(self, generation: Generation, position: int, proposal: Any) -> None:
        self.evaluations.append(
            Evaluation(
                id=len(self.evaluations) + 1,
                job_id=self.job.id,
                config_key=proposal.config_key,
                resolution=generation.resolution,
                generation=generation.number,
                position=position,
                genes=proposal.genes,
                state=EvaluationState.PENDING,
                metric=None,
                metric_interval=None,
                images=None,
                latency_ms=proposal.latency_ms,
                rival_id=proposal.rival_id,
                error=None,
                created_at=NOW,
                finished_at=None,
            )
        )
