"""Replays a job's search from its rows: what `sparsevit replay` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

from sqlalchemy import Engine

from service.db.evaluations import EvaluationRepository
from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.session import session_scope
from service.domain.errors import JobNotFound
from service.domain.records import Evaluation
from service.domain.status import EvaluationState
from sparsevit.search import evolution
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.replay import Replayed, replay
from worker.evaluation_log import EvaluationLog
from worker.job_rows import JobRows, map_keys


def replay_job(engine: Engine, job_id: str) -> Iterator[Replayed]:
    """Every generation of a job, as far as it is, at one input after another; see
    `sparsevit.search.replay`. A job that has proposed nothing yet has none. Raises JobNotFound."""
    rows = _rows(engine, job_id)
    if rows is None:
        return iter(())
    searched = [one for one in rows.inputs if one.evaluations]
    return chain.from_iterable(_replayed(one) for one in searched)


def _replayed(rows: JobRows) -> Iterator[Replayed]:
    return replay(
        rows.search["strategy"],
        rows.space,
        rows.map,
        rows.feasible.budget_ms,
        rows.scope,
        rows.settings,
        [_logged(row) for row in rows.evaluations],
        rows.stop,
    )


def lines(replayed: Iterator[Replayed]) -> Iterator[tuple[str, bool]]:
    """(a line for people, whether the log is as the seed gives) for each generation."""
    for one in replayed:
        if one.difference is not None:
            yield f"generation {one.generation}: {one.difference}", False
        elif one.stop is not None:
            yield (
                f"ended after generation {one.generation - 1} ({one.stop}), as the seed gives",
                True,
            )
        else:
            yield f"generation {one.generation}: {one.proposals} proposals as the seed gives", True


def _rows(engine: Engine, job_id: str) -> JobRows | None:
    """Those of a job that has latency maps."""
    with session_scope(engine) as session:
        job = JobRepository(session).get(job_id)
        if job is None:
            raise JobNotFound("there is no such job in this database")
        evaluations = EvaluationRepository(session).for_job(job_id)
        maps = LatencyMapRepository(session)
        found = [None if key is None else maps.get(key) for key in map_keys(job)]
    if job.inspection is None or None in found:
        return None
    return JobRows(
        job, [], EvaluationLog(evaluations), [LatencyMap.from_dict(one.document) for one in found]
    )


def _logged(row: Evaluation) -> evolution.Evaluation:
    scored = row.state == EvaluationState.DONE and row.metric is not None
    metric = row.metric if scored else math.nan
    return evolution.Evaluation(tuple(row.genes), row.generation, metric, row.latency_ms)
