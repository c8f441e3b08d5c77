"""What a job does next: a pure function of its row, its units, its evaluations and its latency map.

    inspect -> calibrate -> [adapt (slice 0, 1, ...)] -> search (generation 0, 1, ...) -> verify
        -> [finetune (slice 0, 1, ...) -> verify] -> succeeded | failed

A dry run ends after its calibration, and so does a job whose budget cannot be met; both know by
then what the latency map answers for their space.

`step` reads and returns plain data. It knows no SQL, no clock, no device and no random state, so
the same rows always give the same decision: whichever worker takes a step, and however often one
is killed between two of them, the job goes the same way. A decision is one transition; whoever
applies it takes the next step until the answer is WAIT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from service.domain.records import Evaluation, Job, Unit
from service.domain.status import JobStatus, Stage, UnitKind, UnitState
from sparsevit.errors import BudgetUnreachable, ConfigError, SparseViTError
from sparsevit.search import answers, choices
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.racing import Folds
from sparsevit.search.resolutions import resolution_of
from worker.decisions import WAIT, Decision, End, NewUnit
from worker.evaluation_log import EvaluationLog
from worker.generations import search
from worker.job_rows import JobRows
from worker.progress import progress_of
from worker.slices import first_slice, next_slice, trained_weights

AGAIN = 0
"""Shard of the measurement after fine-tuning."""


def step(
    job: Job,
    units: Sequence[Unit],
    evaluations: Sequence[Evaluation],
    latency_maps: Sequence[LatencyMap | None],
    rival_folds: Mapping[int, Folds] | None = None,
) -> Decision:
    """The job's next transition.

    units: at least those of its stage, and of its last generation. latency_maps: of each input the
    one that stands under the key the inspection names, or None. rival_folds: by id of the evaluation,
    of the rivals of its last generation.
    """
    if job.status.terminal:
        return WAIT
    if job.status == JobStatus.CANCELLING:
        leased = any(unit.state == UnitState.LEASED for unit in units)
        return WAIT if leased else Decision(end=End(JobStatus.CANCELLED))
    for unit in units:
        if unit.state == UnitState.FAILED:
            return Decision(end=End(JobStatus.FAILED, error=unit.error))
    rows = JobRows(job, units, EvaluationLog.of(evaluations), latency_maps, rival_folds or {})
    try:
        return _STAGES[job.stage or Stage.INSPECT](rows)
    except SparseViTError as error:
        # About what was asked for, such as a space too large to search: the user can act on it.
        return Decision(end=_failed(error))


def _inspect(rows: JobRows) -> Decision:
    unit = rows.the(UnitKind.INSPECT)
    if unit is None:
        return Decision(stage=Stage.INSPECT, units=(NewUnit(UnitKind.INSPECT, {}),))
    if unit.result is None:
        return WAIT
    return Decision(
        stage=Stage.CALIBRATE,
        inspection=unit.result,
        resolutions=_resolutions(unit.result),
        # A search without a wish for a device runs where it was inspected: its latencies are
        # those of one device model.
        device=rows.job.device or unit.result["device"],
        verdicts=_adaptation_verdicts(rows, unit.result),
    )


def _resolutions(inspection: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """How far each of several inputs is; see `service.domain.records.Job`."""
    sizes = inspection.get("resolutions")
    unknown = {"latency": None, "reachable": None, "planned": None, "stop": None}
    return sizes and [
        {name: one[name] for name in ("input", "latency_map_key")} | unknown for one in sizes
    ]


def _adaptation_verdicts(rows: JobRows, inspection: Mapping[str, Any]) -> tuple[str, ...]:
    adapted = inspection["adapted"] or rows.job.request["adapt"] is not None
    return () if adapted else ("SUPERNET_NOT_ADAPTED",)


def _calibrate(rows: JobRows) -> Decision:
    missing = [one for one in rows.inputs if one.latency_maps[one.resolution] is None]
    if not missing:
        return _use_maps(rows)
    new = [one for one in missing if one.the(UnitKind.CALIBRATE) is None]
    if new:
        return Decision(
            units=tuple(NewUnit(UnitKind.CALIBRATE, {}, resolution=one.resolution) for one in new)
        )
    first = missing[0]
    unit = first.the(UnitKind.CALIBRATE)
    if unit is None or unit.result is None:
        return WAIT
    document = unit.result["map"]
    return Decision(
        latency_map=document,
        map_summary=_map_summary(first, LatencyMap.from_dict(document)),
        latency_map_key=document["key"] if first.resolution == 0 else None,
        resolutions=first.told(latency_map_key=document["key"]),
    )


def _map_summary(rows: JobRows, latency_map: LatencyMap) -> dict[str, Any] | None:
    """What a map answers for the space of all levels, whatever the levels of the job."""
    try:
        return answers.summary(latency_map, choices.search_space(rows.inspection, None))
    except ConfigError:
        # Too large to count. The job's own levels may leave a smaller space.
        return None


def _use_maps(rows: JobRows) -> Decision:
    """What they answer, and with which of the inputs it goes on."""
    maps = [one.map for one in rows.inputs]
    summaries = [answers.summary(one.map, one.space) for one in rows.inputs]
    answered = Decision(
        latency_map_key=maps[0].key,
        latency=summaries[0],
        receipts={one.receipt["id"]: one.receipt for one in maps},
        verdicts=choices.verdicts(maps, []),
    )
    if rows.job.resolutions is not None:
        answered = replace(answered, resolutions=_with_latency(rows.job.resolutions, summaries))
    if rows.job.dry_run:
        return replace(answered, end=End(JobStatus.SUCCEEDED))
    try:
        spaces = [one.space for one in rows.inputs]
        budgets = choices.reachable_budgets(rows.budget, maps, spaces, rows.scope)
    except BudgetUnreachable as error:
        return replace(answered, end=_failed(error))
    planned = [
        0 if ms is None else one.planned_here for one, ms in zip(rows.inputs, budgets, strict=True)
    ]
    answered = replace(
        answered,
        verdicts=choices.verdicts(maps, budgets),
        progress=progress_of(rows.all_evaluations, (), sum(planned), None),
    )
    if answered.resolutions is not None:
        facts = zip(answered.resolutions, budgets, planned, strict=True)
        told = [{**row, "reachable": ms is not None, "planned": n} for row, ms, n in facts]
        answered = replace(answered, resolutions=told)
    if rows.job.request["adapt"] is None:
        return replace(answered, stage=Stage.SEARCH)
    # Only now, when it is known that the budget can be met. All inputs share the weights.
    unit = first_slice(UnitKind.ADAPT, rows.inspection["adapt"])
    return replace(answered, stage=Stage.ADAPT, units=(unit,))


def _with_latency(
    told: Sequence[Mapping[str, Any]], summaries: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    return [{**row, "latency": one} for row, one in zip(told, summaries, strict=True)]


def _adapt(rows: JobRows) -> Decision:
    return next_slice(rows, UnitKind.ADAPT) or Decision(
        stage=Stage.SEARCH,
        weights={"sha256": trained_weights(rows, UnitKind.ADAPT), "source": "adapted"},
        progress=progress_of(rows.all_evaluations, (), rows.planned, None),
    )


def _verify(rows: JobRows) -> Decision:
    found: Mapping[str, Any] | None = None
    for one in rows.reachable:
        unit = one.the(UnitKind.MEASURE)
        if unit is None:
            payload = _measure_payload(one, found)
            return Decision(units=(NewUnit(UnitKind.MEASURE, payload, resolution=one.resolution),))
        if unit.result is None:
            return WAIT
        found = unit.result  # with what was found before
    assert found is not None, "a job that is verified has an input to be measured"
    if not rows.finetuned:
        return _conclude(rows, found)
    winner = _winners(rows, found)
    again = winner.the(UnitKind.MEASURE, AGAIN)
    if again is None:
        place = {"shard": AGAIN, "resolution": winner.resolution}
        return Decision(units=(NewUnit(UnitKind.MEASURE, _again_payload(winner, found), **place),))
    return WAIT if again.result is None else _conclude(rows, again.result)


def _winners(rows: JobRows, found: Mapping[str, Any]) -> JobRows:
    """The view from the winner's input."""
    assert rows.job.inspection is not None, "a job past its inspection has one"
    if rows.job.resolutions is None:
        return rows
    return rows.at(resolution_of(rows.job.inspection, found["document"]["input"]))


def _conclude(rows: JobRows, result: Mapping[str, Any]) -> Decision:
    """The end of a measurement: that of the job, or the beginning of its fine-tuning."""
    error = result["error"]
    measured = Decision(
        receipts=result["receipts"], front=result["front"], artefacts=result["artefacts"]
    )
    if error is None and rows.job.request["finetune"] is not None and not rows.finetuned:
        genes = next(point["genes"] for point in result["front"] if point["winner"])
        settings, winner = rows.inspection["finetune"], _winners(rows, result)
        unit = first_slice(UnitKind.FINETUNE, settings, winner.resolution, genes=genes)
        return replace(measured, stage=Stage.FINETUNE, units=(unit,))
    status = JobStatus.FAILED if error else JobStatus.SUCCEEDED
    return replace(measured, end=End(status, error=error, document=result["document"]))


def _finetune(rows: JobRows) -> Decision:
    return next_slice(rows, UnitKind.FINETUNE) or Decision(
        stage=Stage.VERIFY,
        weights={"sha256": trained_weights(rows, UnitKind.FINETUNE), "source": "finetuned"},
        progress={**rows.job.progress, "training": None},
    )


def _measure_payload(rows: JobRows, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Who is timed, against which budget, and the search they came from. found: at the inputs
    before this one."""
    budget_ms = rows.feasible.budget_ms
    scored = [one for one in rows.history if math.isfinite(one.metric)]
    payload = {
        "finalists": choices.finalists(scored, budget_ms),
        "uniform": choices.best_uniform(rows.space, rows.map, budget_ms, rows.scope),
        "budget": rows.budget,
        "scope": rows.scope,
        "search": {
            "job_id": rows.job.id,
            "strategy": rows.search["strategy"],
            "seed": rows.search["seed"],
            "stop": rows.stop,
            "evaluations": [
                {"genes": one.genes, "metric": one.metric, "latency_ms": one.latency_ms}
                for one in scored
            ],
        },
    }
    if rows.job.resolutions is None:
        return payload
    return {**payload, "dense_ratio": rows.dense_ratio, "before": found}


def _again_payload(rows: JobRows, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found with the weights before fine-tuning, to be measured with those after it."""
    payload = {
        "found": {name: found[name] for name in ("document", "front", "artefacts")},
        "budget": rows.budget,
        "scope": rows.scope,
    }
    return payload if rows.job.resolutions is None else {**payload, "dense_ratio": rows.dense_ratio}


_STAGES: dict[Stage, Callable[[JobRows], Decision]] = {
    Stage.INSPECT: _inspect,
    Stage.CALIBRATE: _calibrate,
    Stage.ADAPT: _adapt,
    Stage.SEARCH: search,
    Stage.VERIFY: _verify,
    Stage.FINETUNE: _finetune,
}


def _failed(error: SparseViTError) -> End:
    return End(JobStatus.FAILED, error={"code": error.code, "message": str(error)})
