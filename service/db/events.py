"""Statements on the events of jobs.

An event is written by the transaction that changes the job, after the UPDATE of its row: changes of a
job wait for each other, so its events are committed in the order of their ids, and who has seen one
has seen all of the job's before it. (Of several jobs together this does not hold.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Row, Text, bindparam, delete, func, insert, select
from sqlalchemy.orm import Session

from service.db.models import JobEventRow, table_of
from service.domain.events import FIELDS, EventKind, JobEvent, kind_of
from service.domain.records import Json

_EVENTS = table_of(JobEventRow)
_REPEATED = (EventKind.PROGRESS, EventKind.TRAINING)


def _event(row: Row[Any]) -> JobEvent:
    fields = dict(row._mapping)
    fields["kind"] = EventKind(fields["kind"])
    return JobEvent(**fields)


class EventRepository:
    """Events within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, job_id: str, version: int, fields: Mapping[str, Any]) -> None:
        """Tells of a change: those of `fields` that are told at all, by name."""
        changes = {name: _plain(fields[name]) for name in FIELDS if name in fields}
        kind = kind_of(changes)
        if kind is None:
            return
        if kind in _REPEATED:
            self._drop_superseded(job_id, kind, changes["progress"].get("generation"))
        values = {"job_id": job_id, "kind": kind, "data": {"version": version, **changes}}
        self._session.execute(insert(_EVENTS).values(values))

    def _drop_superseded(self, job_id: str, kind: EventKind, generation: int | None) -> None:
        """A training of days leaves one event, and a generation one."""
        its = _EVENTS.c.data["progress"]["generation"].as_integer()
        self._session.execute(
            delete(_EVENTS).where(
                _EVENTS.c.job_id == job_id,
                _EVENTS.c.kind == kind,
                its.is_not_distinct_from(generation),
            )
        )

    def of_job(self, job_id: str, after: int = 0) -> list[JobEvent]:
        """A job's events that follow the one of that id, in order."""
        return self.of_jobs({job_id: after})

    def of_jobs(self, after: Mapping[str, int]) -> list[JobEvent]:
        """The same of several jobs at once."""
        asked = func.unnest(
            bindparam("jobs", list(after), ARRAY(Text)),
            bindparam("seen", list(after.values()), ARRAY(BigInteger)),
        ).table_valued("job_id", "seen", name="asked")
        asked = asked.render_derived()
        statement = (
            select(*_EVENTS.c)
            .join(asked, _EVENTS.c.job_id == asked.c.job_id)
            .where(_EVENTS.c.id > asked.c.seen)
            .order_by(_EVENTS.c.id)
        )
        return [_event(row) for row in self._session.execute(statement)]

    def last_id(self, job_id: str) -> int:
        """The id of a job's last event."""
        statement = select(func.max(_EVENTS.c.id)).where(_EVENTS.c.job_id == job_id)
        return self._session.scalar(statement) or 0


def _plain(value: Any) -> Json | Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
