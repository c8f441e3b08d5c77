"""Counts of what has ended, kept by the transactions that end it: every API process answers the same,
and a job that is deleted stays counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import case, func, literal, select
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Session

from service.db.models import JobRow, TallyRow, table_of

_TALLIES = table_of(TallyRow)


def _merged(statement: Insert) -> Insert:
    """Added to what stands."""
    new = statement.excluded
    sums = {name: _TALLIES.c[name] + new[name] for name in ("count", "seconds")}
    return statement.on_conflict_do_update(index_elements=_TALLIES.primary_key, set_=sums)


_ADD = _merged(insert(_TALLIES))


@dataclass(frozen=True, slots=True)
class Tally:
    """So many of a kind had that outcome, and took so many seconds together; see TallyRow on names."""

    name: str
    kind: str
    outcome: str
    count: int
    seconds: float


class TallyRepository:
    """Tallies within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def job_ended(self, job_id: str) -> None:
        """Counts a job that has just ended; its seconds are those since it was submitted."""
        took = func.extract("epoch", JobRow.finished_at - JobRow.created_at)
        kind = case((JobRow.dry_run, "dry_run"), else_="search")
        ended = select(literal("job"), kind, JobRow.status, 1, took).where(JobRow.id == job_id)
        self._session.execute(_merged(insert(_TALLIES).from_select(_TALLIES.c.keys(), ended)))

    def add(self, name: str, outcomes: Iterable[tuple[str, str, float]]) -> None:
        """Counts (kind, outcome, seconds) each."""
        sums: dict[tuple[str, str], tuple[int, float]] = {}
        for kind, outcome, seconds in outcomes:
            count, total = sums.get((kind, outcome), (0, 0.0))
            sums[kind, outcome] = count + 1, total + seconds
        # In one order, whoever counts: two transactions must not wait for each other.
        columns = _TALLIES.c.keys()
        rows = [dict(zip(columns, (name, *key, *sums[key]), strict=True)) for key in sorted(sums)]
        if rows:
            self._session.execute(_ADD, rows)

    def all(self) -> list[Tally]:
        """Every tally, in order."""
        statement = select(*_TALLIES.c).order_by(*_TALLIES.primary_key.columns)
        return [Tally(**row._mapping) for row in self._session.execute(statement)]
