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
from worker.decisions import WAIT, Decision, End, NewUnit
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
    latency_map: LatencyMap | None,
    rival_folds: Mapping[int, Folds] | None = None,
) -> Decision:
    """The job's next transition.

    units: at least those of its stage, and of its last generation. latency_map: the one that
    stands under the key the inspection names, or None. rival_folds: by id of the evaluation, of the
    rivals of its last generation.
    """
    if job.status.terminal:
        return WAIT
    if job.status == JobStatus.CANCELLING:
        leased = any(unit.state == UnitState.LEASED for unit in units)
        return WAIT if leased else Decision(end=End(JobStatus.CANCELLED))
    for unit in units:
        if unit.state == UnitState.FAILED:
            return Decision(end=End(JobStatus.FAILED, error=unit.error))
    rows = JobRows(job, units, evaluations, latency_map, rival_folds or {})
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
        # A search without a wish for a device runs where it was inspected: its latencies are
        # those of one device model.
        device=rows.job.device or unit.result["device"],
        verdicts=_adaptation_verdicts(rows, unit.result),
    )


def _adaptation_verdicts(rows: JobRows, inspection: Mapping[str, Any]) -> tuple[str, ...]:
    adapted = inspection["adapted"] or rows.job.request["adapt"] is not None
    return () if adapted else ("SUPERNET_NOT_ADAPTED",)


def _calibrate(rows: JobRows) -> Decision:
    if rows.latency_map is not None:
        return _use_map(rows)
    unit = rows.the(UnitKind.CALIBRATE)
    if unit is None:
        return Decision(units=(NewUnit(UnitKind.CALIBRATE, {}),))
    if unit.result is None:
        return WAIT
    document = unit.result["map"]
    return Decision(
        latency_map=document,
        map_summary=_map_summary(rows, LatencyMap.from_dict(document)),
        latency_map_key=document["key"],
    )


def _map_summary(rows: JobRows, latency_map: LatencyMap) -> dict[str, Any] | None:
    """What a map answers for the space of all levels, whatever the levels of the job."""
    try:
        return answers.summary(latency_map, choices.search_space(rows.inspection, None))
    except ConfigError:
        # Too large to count. The job's own levels may leave a smaller space.
        return None


def _use_map(rows: JobRows) -> Decision:
    answered = Decision(
        latency_map_key=rows.map.key,
        latency=answers.summary(rows.map, rows.space),
        receipts={rows.map.receipt["id"]: rows.map.receipt},
        verdicts=choices.map_verdicts(rows.map),
    )
    if rows.job.dry_run:
        return replace(answered, end=End(JobStatus.SUCCEEDED))
    try:
        choices.reachable_budget(rows.budget, rows.map, rows.space, rows.scope)
    except BudgetUnreachable as error:
        return replace(answered, end=_failed(error))
    answered = replace(answered, progress=progress_of(rows.evaluations, {}, rows.planned, None))
    if rows.job.request["adapt"] is None:
        return replace(answered, stage=Stage.SEARCH)
    # Only now, when it is known that the budget can be met.
    unit = first_slice(UnitKind.ADAPT, rows.inspection["adapt"])
    return replace(answered, stage=Stage.ADAPT, units=(unit,))


def _adapt(rows: JobRows) -> Decision:
    return next_slice(rows, UnitKind.ADAPT) or Decision(
        stage=Stage.SEARCH,
        weights={"sha256": trained_weights(rows, UnitKind.ADAPT), "source": "adapted"},
        progress=progress_of(rows.evaluations, {}, rows.planned, None),
    )


def _verify(rows: JobRows) -> Decision:
    first = rows.the(UnitKind.MEASURE)
    if first is None:
        return Decision(units=(NewUnit(UnitKind.MEASURE, _measure_payload(rows)),))
    if first.result is None:
        return WAIT
    if not rows.finetuned:
        return _conclude(rows, first.result)
    again = rows.the(UnitKind.MEASURE, AGAIN)
    if again is None:
        payload = _again_payload(rows, first.result)
        return Decision(units=(NewUnit(UnitKind.MEASURE, payload, shard=AGAIN),))
    return WAIT if again.result is None else _conclude(rows, again.result)


def _conclude(rows: JobRows, result: Mapping[str, Any]) -> Decision:
    """The end of a measurement: that of the job, or the beginning of its fine-tuning."""
    error = result["error"]
    measured = Decision(
        receipts=result["receipts"], front=result["front"], artefacts=result["artefacts"]
    )
    if error is None and rows.job.request["finetune"] is not None and not rows.finetuned:
        winner = next(point["genes"] for point in result["front"] if point["winner"])
        settings = rows.inspection["finetune"]
        unit = first_slice(UnitKind.FINETUNE, settings, genes=winner)
        return replace(measured, stage=Stage.FINETUNE, units=(unit,))
    status = JobStatus.FAILED if error else JobStatus.SUCCEEDED
    return replace(measured, end=End(status, error=error, document=result["document"]))


def _finetune(rows: JobRows) -> Decision:
    return next_slice(rows, UnitKind.FINETUNE) or Decision(
        stage=Stage.VERIFY,
        weights={"sha256": trained_weights(rows, UnitKind.FINETUNE), "source": "finetuned"},
        progress={**rows.job.progress, "training": None},
    )


def _measure_payload(rows: JobRows) -> dict[str, Any]:
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
            "stop": rows.job.progress.get("stop"),
            "evaluations": [
                {"genes": one.genes, "metric": one.metric, "latency_ms": one.latency_ms}
                for one in scored
            ],
        },
    }


def _again_payload(rows: JobRows, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found with the weights before fine-tuning, to be measured with those after it."""
    return {
        "found": {name: found[name] for name in ("document", "front", "artefacts")},
        "budget": rows.budget,
        "scope": rows.scope,
    }


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
