"""What a job does next: a pure function of its row, its units, its evaluations and its latency map.

    inspect -> calibrate -> search (generation 0, 1, ...) -> verify -> succeeded | failed

`step` reads and returns plain data. It knows no SQL, no clock, no device and no random state, so
the same rows always give the same decision: whichever worker takes a step, and however often one
is killed between two of them, the job goes the same way. A decision is one transition; whoever
applies it takes the next step until the answer is WAIT.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from typing import Any

from service.domain.records import Evaluation, Job, Proposal, Unit
from service.domain.status import EvaluationState, JobStatus, Stage, UnitKind, UnitState
from sparsevit import metrics
from sparsevit.errors import BudgetUnreachable
from sparsevit.search import choices, evolution
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes
from worker.decisions import WAIT, Decision, End, Generation, NewUnit, Score


@dataclass(frozen=True)
class _Rows:
    """All that a step looks at."""

    job: Job
    units: Sequence[Unit]
    evaluations: Sequence[Evaluation]
    latency_map: LatencyMap | None

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
        names = (field.name for field in fields(evolution.EvolutionSettings))
        return evolution.EvolutionSettings(**{name: self.search[name] for name in names})

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
        settings = self.settings
        planned = min(settings.population * settings.generations, self.feasible.count)
        return min(planned, settings.max_evaluations or planned)

    @property
    def history(self) -> list[evolution.Evaluation]:
        """Ended evaluations in the order of their proposal, whatever order they ended in."""
        ended = [row for row in self.evaluations if row.state != EvaluationState.PENDING]
        ended.sort(key=lambda row: (row.generation, row.position))
        return [
            evolution.Evaluation(
                tuple(row.genes),
                row.generation,
                math.nan if row.metric is None else row.metric,
                row.latency_ms,
            )
            for row in ended
        ]

    def the(self, kind: UnitKind) -> Unit | None:
        """The job's one unit of this kind."""
        return next((unit for unit in self.units if unit.kind == kind), None)


def step(
    job: Job,
    units: Sequence[Unit],
    evaluations: Sequence[Evaluation],
    latency_map: LatencyMap | None,
) -> Decision:
    """The job's next transition.

    units: at least those of its stage, and of its last generation. latency_map: the one that
    stands under the key the inspection names, or None.
    """
    if job.status.terminal:
        return WAIT
    if job.status == JobStatus.CANCELLING:
        leased = any(unit.state == UnitState.LEASED for unit in units)
        return WAIT if leased else Decision(end=End(JobStatus.CANCELLED))
    for unit in units:
        if unit.state == UnitState.FAILED:
            return Decision(end=End(JobStatus.FAILED, error=unit.error))
    return _STAGES[job.stage or Stage.INSPECT](_Rows(job, units, evaluations, latency_map))


def _inspect(rows: _Rows) -> Decision:
    unit = rows.the(UnitKind.INSPECT)
    if unit is None:
        return Decision(stage=Stage.INSPECT, units=(NewUnit(UnitKind.INSPECT, {}),))
    if unit.result is None:
        return WAIT
    return Decision(
        stage=Stage.CALIBRATE,
        inspection=unit.result,
        # A search without a wish for a device runs where it was inspected: its latencies are
        # those of one device model.
        device=rows.job.device or unit.result["device"],
        verdicts=() if unit.result["adapted"] else ("SUPERNET_NOT_ADAPTED",),
    )


def _calibrate(rows: _Rows) -> Decision:
    if rows.latency_map is not None:
        return _enter_search(rows)
    unit = rows.the(UnitKind.CALIBRATE)
    if unit is None:
        return Decision(units=(NewUnit(UnitKind.CALIBRATE, {}),))
    if unit.result is None:
        return WAIT
    return Decision(latency_map=unit.result["map"], latency_map_key=unit.result["map"]["key"])


def _enter_search(rows: _Rows) -> Decision:
    verdicts = choices.map_verdicts(rows.map)
    try:
        choices.reachable_budget(rows.budget, rows.map, rows.space, rows.scope)
    except BudgetUnreachable as error:
        reason = {"code": error.code, "message": str(error)}
        return Decision(verdicts=verdicts, end=End(JobStatus.FAILED, error=reason))
    return Decision(
        stage=Stage.SEARCH,
        latency_map_key=rows.map.key,
        receipts={rows.map.receipt["id"]: rows.map.receipt},
        verdicts=verdicts,
        progress=_progress(rows.evaluations, {}, rows.planned, None),
    )


def _search(rows: _Rows) -> Decision:
    if any(row.state == EvaluationState.PENDING for row in rows.evaluations):
        return _score_generation(rows)
    number = max((row.generation for row in rows.evaluations), default=-1) + 1
    candidates = evolution.STRATEGIES[rows.search["strategy"]](
        rows.space,
        rows.map,
        rows.feasible.budget_ms,
        rows.scope,
        rows.settings,
        rows.history,
        number,
    )
    if candidates:
        return _open_generation(rows, number, candidates)
    total = len(rows.evaluations)
    return Decision(stage=Stage.VERIFY, progress=_progress(rows.evaluations, {}, total, number - 1))


def _open_generation(rows: _Rows, number: int, candidates: Sequence[Genes]) -> Decision:
    predicted = rows.map.predict(candidates, rows.scope)
    proposals = tuple(
        Proposal(json.dumps(rows.space.key(genes)), list(genes), float(ms))
        for genes, ms in zip(candidates, predicted, strict=True)
    )
    shards = rows.inspection["shards"]
    payload = {
        "generation": number,
        "candidates": [list(genes) for genes in candidates],
        "shards": shards,
    }
    units = tuple(
        NewUnit(UnitKind.EVALUATE, {**payload, "shard": shard}, number, shard)
        for shard in range(shards)
    )
    return Decision(
        generation=Generation(number, proposals),
        units=units,
        progress=_progress(rows.evaluations, {}, rows.planned, number),
        estimated_finish_at=_estimated_finish(rows),
    )


def _score_generation(rows: _Rows) -> Decision:
    pending = [row for row in rows.evaluations if row.state == EvaluationState.PENDING]
    number = pending[0].generation
    shards = [u for u in rows.units if u.kind == UnitKind.EVALUATE and u.generation == number]
    results = [unit.result for unit in shards if unit.result is not None]
    if len(results) < rows.inspection["shards"]:
        return WAIT
    metric = rows.inspection["metric"]
    scores = {
        row.id: metrics.value(
            metrics.merge([result["states"][row.position] for result in results]), metric
        )
        for row in pending
    }
    return Decision(
        scores=tuple(Score(row_id, value) for row_id, value in scores.items()),
        progress=_progress(rows.evaluations, scores, rows.planned, number),
    )


def _verify(rows: _Rows) -> Decision:
    unit = rows.the(UnitKind.MEASURE)
    if unit is None:
        return Decision(units=(NewUnit(UnitKind.MEASURE, _measure_payload(rows)),))
    if unit.result is None:
        return WAIT
    result = unit.result
    error = result["error"]
    return Decision(
        receipts=result["receipts"],
        verdicts=tuple(result["verdicts"]),
        end=End(
            JobStatus.FAILED if error else JobStatus.SUCCEEDED,
            error=error,
            document=result["document"],
            front=result["front"],
            artefacts=result["artefacts"],
        ),
    )


def _measure_payload(rows: _Rows) -> dict[str, Any]:
    """Who is timed, against which budget, and the search they came from."""
    budget_ms = rows.feasible.budget_ms
    scored = [one for one in rows.history if math.isfinite(one.metric)]
    return {
        "finalists": choices.finalists(scored, budget_ms),
        "uniform": choices.best_uniform(rows.space, rows.map, budget_ms, rows.scope),
        "budget": rows.budget,
        "scope": rows.scope,
        "search": {
            "job_id": rows.job.id,
            "strategy": rows.search["strategy"],
            "seed": rows.search["seed"],
            "evaluations": [
                {"genes": one.genes, "metric": one.metric, "latency_ms": one.latency_ms}
                for one in scored
            ],
        },
    }


_STAGES: dict[Stage, Callable[[_Rows], Decision]] = {
    Stage.INSPECT: _inspect,
    Stage.CALIBRATE: _calibrate,
    Stage.SEARCH: _search,
    Stage.VERIFY: _verify,
}


def _progress(
    evaluations: Sequence[Evaluation],
    scores: Mapping[int, float],
    total: int,
    generation: int | None,
) -> dict[str, Any]:
    """Counters that equal the rows once `scores` are applied."""
    done = [
        (scores.get(row.id, row.metric), row.latency_ms)
        for row in evaluations
        if row.state == EvaluationState.DONE or row.id in scores
    ]
    best = max(done, key=lambda pair: (pair[0], -pair[1]), default=None)
    return {
        "done": len(done),
        "failed": sum(row.state == EvaluationState.FAILED for row in evaluations),
        "total": total,
        "generation": generation,
        "best": None if best is None else {"metric": best[0], "latency_ms": best[1]},
    }


def _estimated_finish(rows: _Rows) -> datetime | None:
    """When the search is over if it goes on at its present pace; by the database's clock."""
    ended = [row.finished_at for row in rows.evaluations if row.finished_at is not None]
    if not ended:
        return None
    first, last = min(row.created_at for row in rows.evaluations), max(ended)
    return last + (last - first) / len(ended) * max(0, rows.planned - len(ended))
