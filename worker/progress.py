"""How far a job is: plain arithmetic on its rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.domain.records import Ending
from service.domain.status import EvaluationState
from worker.evaluation_log import EvaluationLog
from worker.job_rows import JobRows


def progress_of(
    evaluations: EvaluationLog,
    endings: Sequence[Ending],
    total: int,
    generation: int | None,
) -> dict[str, Any]:
    """Counters that equal the rows once `endings` are applied."""
    totals = evaluations.totals()
    if endings:
        latency_ms = {row.id: row.latency_ms for row in evaluations.open}
        for one in endings:
            totals.end(one.state, one.metric, latency_ms[one.evaluation_id])
    best = totals.best and {"metric": totals.best[0], "latency_ms": -totals.best[1]}
    return {
        "done": totals.count[EvaluationState.DONE] + totals.count[EvaluationState.DROPPED],
        "failed": totals.count[EvaluationState.FAILED],
        "total": total,
        "generation": generation,
        "best": best,
        "stop": None,
        "training": None,
        "postponed": None,
    }


def estimated_finish(rows: JobRows) -> datetime | None:
    """When the search is over if it goes on at its present pace; by the database's clock."""
    totals = rows.all_evaluations.totals()
    if totals.since is None or totals.until is None:
        return None
    return totals.until + (totals.until - totals.since) / totals.ended * max(
        0, rows.planned - totals.ended
    )
