"""Statements on evaluations. A finished one never changes, so a candidate is counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.db.models import EvaluationRow, table_of
from service.domain.records import Evaluation, Json, Proposal
from service.domain.status import EvaluationState

_EVALUATIONS = table_of(EvaluationRow)
_READ = [column for column in _EVALUATIONS.c if column.name != "folds"]
_CLOCK = func.clock_timestamp()


def _evaluation(row: Row[Any]) -> Evaluation:
    fields = dict(row._mapping)
    fields["state"] = EvaluationState(fields["state"])
    return Evaluation(**fields)


class EvaluationRepository:
    """Evaluations within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self, job_id: str, generation: int, proposals: Sequence[Proposal], resolution: int = 0
    ) -> int:
        """Inserts a generation's proposals as pending, in order; returns how many were new."""
        if not proposals:
            return 0
        rows = [
            {
                "job_id": job_id,
                "config_key": proposal.config_key,
                "resolution": resolution,
                "generation": generation,
                "position": position,
                "genes": proposal.genes,
                "state": EvaluationState.PENDING,
                "latency_ms": proposal.latency_ms,
                "rival_id": proposal.rival_id,
            }
            for position, proposal in enumerate(proposals)
        ]
        statement = (
            insert(_EVALUATIONS).values(rows).on_conflict_do_nothing().returning(_EVALUATIONS.c.id)
        )
        return len(self._session.scalars(statement).all())

    def finish(
        self,
        evaluation_id: int,
        metric: float,
        images: int,
        folds: Sequence[Any] | None = None,
    ) -> bool:
        """pending -> done with its metric on all images; see `rival_folds` on folds."""
        values = {"metric": metric, "images": images, "folds": folds}
        return self._end(evaluation_id, EvaluationState.DONE, values)

    def drop(
        self, evaluation_id: int, metric: float, interval: Sequence[float], images: int
    ) -> bool:
        """pending -> dropped, with its metric on so many images and an interval of that on all."""
        values = {"metric": metric, "metric_interval": list(interval), "images": images}
        return self._end(evaluation_id, EvaluationState.DROPPED, values)

    def fail(self, evaluation_id: int, error: Json) -> bool:
        """pending -> failed, with the reason."""
        return self._end(evaluation_id, EvaluationState.FAILED, {"error": error})

    def _end(self, evaluation_id: int, state: EvaluationState, values: Mapping[str, Any]) -> bool:
        """False: it had ended before, and stays as it was."""
        statement = (
            update(_EVALUATIONS)
            .where(
                _EVALUATIONS.c.id == evaluation_id,
                _EVALUATIONS.c.state == EvaluationState.PENDING,
            )
            .values(state=state, finished_at=_CLOCK, **values)
            .returning(_EVALUATIONS.c.id)
        )
        return self._session.execute(statement).one_or_none() is not None

    def rival_folds(self, job_id: str) -> dict[int, list[Any]]:
        """The folds that a job's pending evaluations race against, by id of the evaluation."""
        columns = _EVALUATIONS.c
        pending = (columns.job_id == job_id) & (columns.state == EvaluationState.PENDING)
        rivals = select(columns.rival_id).where(pending, columns.rival_id.is_not(None))
        statement = select(columns.id, columns.folds).where(columns.id.in_(rivals))
        return {row.id: row.folds for row in self._session.execute(statement)}

    def for_job(self, job_id: str) -> list[Evaluation]:
        """A job's evaluations in order of proposal."""
        columns = _EVALUATIONS.c
        statement = select(*_READ).where(columns.job_id == job_id)
        order = (columns.resolution, columns.generation, columns.position)
        statement = statement.order_by(*order)
        return [_evaluation(row) for row in self._session.execute(statement)]

    def get(self, job_id: str, evaluation_id: int) -> Evaluation | None:
        """One of the job's evaluations."""
        columns = _EVALUATIONS.c
        statement = select(*_READ).where(columns.id == evaluation_id, columns.job_id == job_id)
        row = self._session.execute(statement).one_or_none()
        return None if row is None else _evaluation(row)

    def best(self, job_id: str) -> Evaluation | None:
        """The best metric of a job so far, and of equals the one that is predicted faster."""
        columns = _EVALUATIONS.c
        statement = select(*_READ).where(
            columns.job_id == job_id, columns.state == EvaluationState.DONE
        )
        order = (columns.metric.desc(), columns.latency_ms, columns.id)
        row = self._session.execute(statement.order_by(*order).limit(1)).one_or_none()
        return None if row is None else _evaluation(row)

    def page(self, job_id: str, limit: int, after: Evaluation | None = None) -> list[Evaluation]:
        """A job's evaluations in order of proposal, from the one that follows `after`.

        Not by id, which is the same order: Postgres would read the primary key, other jobs' rows and
        all, where it takes a job's rows for evenly spread.
        """
        columns = _EVALUATIONS.c
        order = (columns.resolution, columns.generation, columns.position)
        statement = select(*_READ).where(columns.job_id == job_id)
        if after is not None:
            place = (after.resolution, after.generation, after.position)
            statement = statement.where(tuple_(*order) > tuple_(*place))
        statement = statement.order_by(*order).limit(limit)
        return [_evaluation(row) for row in self._session.execute(statement)]
