"""How far a job is: plain arithmetic on its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from service.domain.records import Evaluation
from service.domain.status import EvaluationState
from worker.job_rows import JobRows


def progress_of(
    evaluations: Sequence[Evaluation],
    scores: Mapping[int, float],
    total: int,
    generation: int | None,
    dropped: int = 0,
    failed: int = 0,
) -> dict[str, Any]:
    """Counters that equal the rows once `scores`, and so many drops and failures, are applied."""
    scored = [
        (scores.get(row.id, row.metric), row.latency_ms)
        for row in evaluations
        if row.state == EvaluationState.DONE or row.id in scores
    ]
    count = Counter(row.state for row in evaluations)
    best = max(scored, key=lambda pair: (pair[0], -pair[1]), default=None)
    return {
        "done": len(scored) + dropped + count[EvaluationState.DROPPED],
        "failed": failed + count[EvaluationState.FAILED],
        "total": total,
        "generation": generation,
        "best": None if best is None else {"metric": best[0], "latency_ms": best[1]},
        "stop": None,
        "training": None,
        "postponed": None,
    }


def estimated_finish(rows: JobRows) -> datetime | None:
    """When the search is over if it goes on at its present pace; by the database's clock."""
    ended = [row.finished_at for row in rows.all_evaluations if row.finished_at is not None]
    if not ended:
        return None
    first, last = min(row.created_at for row in rows.all_evaluations), max(ended)
    return last + (last - first) / len(ended) * max(0, rows.planned - len(ended))
