"""Statements on evaluations. A finished one never changes, so a candidate is counted once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import CursorResult, Row, bindparam, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.db.models import EvaluationRow, table_of
from service.domain.records import Ending, Evaluation, Proposal
from service.domain.status import EvaluationState

_EVALUATIONS = table_of(EvaluationRow)
_READ = [_EVALUATIONS.c[name] for name in Evaluation.__slots__]
_STATE = Evaluation.__slots__.index("state")
_END = (
    update(_EVALUATIONS)
    .where(
        _EVALUATIONS.c.id == bindparam("the_evaluation_id"),
        _EVALUATIONS.c.state == EvaluationState.PENDING,
    )
    .values(
        {name: bindparam(f"the_{name}") for name in Ending.__slots__ if name != "evaluation_id"}
    )
    .values(finished_at=func.clock_timestamp())
)


def _evaluation(row: Row[Any]) -> Evaluation:
    # A step reads a whole generation: by place, which is several times quicker than by name.
    fields = [*row]
    fields[_STATE] = EvaluationState(fields[_STATE])
    return Evaluation(*fields)


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
        counted = insert(_EVALUATIONS).execution_options(preserve_rowcount=True)
        added = self._session.connection().execute(counted.on_conflict_do_nothing(), rows)
        return added.rowcount

    def end(self, endings: Sequence[Ending]) -> int:
        """pending -> done, dropped or failed, in one go; how many were pending. The others had ended
        before, and stay as they are."""
        if not endings:
            return 0
        rows = [{f"the_{name}": getattr(one, name) for name in Ending.__slots__} for one in endings]
        found: CursorResult[Any] = self._session.connection().execute(_END, rows)
        return found.rowcount

    def folds(self, evaluation_ids: Collection[int]) -> dict[int, Any]:
        """The folds of those evaluations, by id: of possible rivals, see Ending."""
        columns = _EVALUATIONS.c
        statement = select(columns.id, columns.folds).where(columns.id.in_(evaluation_ids))
        return {row.id: row.folds for row in self._session.execute(statement)}

    def for_job(
        self, job_id: str, limit: int | None = None, after: Evaluation | None = None
    ) -> list[Evaluation]:
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
