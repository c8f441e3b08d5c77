"""Statements on units: claim, heartbeat, finish.

Every time is the database's (`clock_timestamp()`); a worker's clock is never asked. A claim raises
`attempt`, and whoever writes names the attempt it holds: a write with an older one changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import Float, Row, Update, case, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.db.models import JobRow, UnitRow, table_of
from service.db.tallies import TallyRepository
from service.db.unit_statements import CLAIM, FINISH, LOCK_DEVICE, UNDER_WAY
from service.domain.records import Json, Unit
from service.domain.status import (
    MAX_ATTEMPTS,
    QUIET_KINDS,
    SHARD_ATTEMPTS,
    SPLIT_KINDS,
    JobStatus,
    UnitKind,
    UnitState,
)

_UNITS = table_of(UnitRow)
_CLOCK = func.clock_timestamp()
_TOOK = func.extract("epoch", _CLOCK - _UNITS.c.started_at).cast(Float).label("seconds")
_FAILURES = _UNITS.c.failures + 1
_WHOLE_SHARD = (_UNITS.c.kind == UnitKind.EVALUATE) & (_UNITS.c.part == -1)
_SPENT = case((_WHOLE_SHARD, SHARD_ATTEMPTS), else_=MAX_ATTEMPTS) <= _FAILURES
_GIVEN_UP = case((_UNITS.c.kind.in_(SPLIT_KINDS), UnitState.BROKEN), else_=UnitState.FAILED)
_LIVE = (JobStatus.QUEUED, JobStatus.RUNNING)
_UNHELD: dict[str, Any] = {"lease_until": None, "worker_id": None, "device_uuid": None}
WORKER_LOST = {
    "code": "WORKER_LOST",
    "message": "the worker that held this unit stopped reporting; see the worker's log",
}

_ADD = insert(_UNITS).on_conflict_do_nothing()

Beat = Literal["ok", "lost", "cancel"]


def _pending(job_id: str, device: str | None, unit: Mapping[str, Any]) -> Json:
    return {"job_id": job_id, "device": device, "state": UnitState.PENDING, **unit}


def _unit(row: Row[Any]) -> Unit:
    fields = dict(row._mapping)
    fields["kind"] = UnitKind(fields["kind"])
    fields["state"] = UnitState(fields["state"])
    return Unit(**fields)


class UnitRepository:
    """Units within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        job_id: str,
        kind: UnitKind,
        payload: Json,
        generation: int = -1,
        shard: int = -1,
        part: int = -1,
        device: str | None = None,
        resolution: int = 0,
    ) -> int | None:
        """Inserts a pending unit and returns its id; None where the job has that unit already."""
        place = {"generation": generation, "shard": shard, "part": part, "resolution": resolution}
        row = _pending(job_id, device, {"kind": kind, "payload": payload, **place})
        unit_id: int | None = self._session.scalar(_ADD.returning(_UNITS.c.id), row)
        return unit_id

    def add_all(self, job_id: str, device: str | None, units: Sequence[Mapping[str, Any]]) -> None:
        """Inserts pending units, those that the job has not yet; see `add` on what each names."""
        if units:
            self._session.execute(_ADD, [_pending(job_id, device, unit) for unit in units])

    def claim(self, worker_id: str, device: str, device_uuid: str, lease_s: float) -> Unit | None:
        """Leases the next unit to a worker of that device model, or None.

        Jobs take turns: the one whose last claim is oldest comes first. A unit that times something
        is leased only while no other unit is leased on that very device, and no other beside it.
        """
        self._session.execute(LOCK_DEVICE, {"device_uuid": device_uuid})
        parameters = {
            "live": list(_LIVE),
            "quiet": list(QUIET_KINDS),
            "device": device,
            "worker_id": worker_id,
            "device_uuid": device_uuid,
            "lease": timedelta(seconds=lease_s),
        }
        row = self._session.execute(CLAIM, parameters).one_or_none()
        return None if row is None else _unit(row)

    def heartbeat(self, unit_id: int, attempt: int, lease_s: float) -> Beat:
        """Prolongs a lease. "lost": the attempt holds it no longer. "cancel": stop working."""
        status = select(JobRow.status).where(JobRow.id == _UNITS.c.job_id).scalar_subquery()
        statement = (
            self._held(unit_id, attempt)
            .values(lease_until=_CLOCK + timedelta(seconds=lease_s))
            .returning(status)
        )
        row = self._session.execute(statement).one_or_none()
        if row is None:
            return "lost"
        return "ok" if row[0] in _LIVE else "cancel"

    def finish(self, unit_id: int, attempt: int, result: Json) -> bool:
        """leased -> done. False: the attempt holds the lease no longer, the result is refused."""
        held = {"unit_id": unit_id, "attempt": attempt, "result": result}
        if self._session.scalar(FINISH, held) is not None:
            return True
        self._count_fenced(unit_id)
        return False

    def fail(self, unit_id: int, attempt: int, error: Json, retry: bool) -> bool:
        """leased -> failed; with `retry` -> pending, until it has failed as often as it may: it is
        failed then, or broken where it can be taken apart."""
        state = case((_SPENT, _GIVEN_UP), else_=UnitState.PENDING)
        values = {
            "error": error,
            "failures": _FAILURES,
            "state": state if retry else UnitState.FAILED,
            "finished_at": case((_SPENT, _CLOCK), else_=None) if retry else _CLOCK,
        }
        return self._let_go(unit_id, attempt, {**values, **_UNHELD})

    def release(self, unit_id: int, attempt: int) -> bool:
        """leased -> pending, for a worker that shuts down; does not count as a failure."""
        return self._let_go(
            unit_id, attempt, {"state": UnitState.PENDING, **_UNHELD}, outcome="released"
        )

    def postpone(self, unit_id: int, attempt: int, error: Json, seconds: float) -> bool:
        """leased -> pending, but not to be claimed for so long; does not count as a failure."""
        values = {
            "state": UnitState.PENDING,
            "error": error,
            "postponed": _UNITS.c.postponed + 1,
            "not_before": _CLOCK + timedelta(seconds=seconds),
        }
        return self._let_go(unit_id, attempt, {**values, **_UNHELD}, outcome="postponed")

    def cancel(self, unit_id: int, attempt: int) -> bool:
        """leased -> cancelled, after a heartbeat said so."""
        values = {"state": UnitState.CANCELLED, "finished_at": _CLOCK, "lease_until": None}
        return self._let_go(unit_id, attempt, values)

    def cancel_pending(self, job_id: str) -> int:
        """Cancels a job's pending units and returns their number.

        A unit that is being claimed at this moment is passed over, not waited for: its first
        heartbeat says "cancel".
        """
        pending = (
            select(_UNITS.c.id)
            .where(_UNITS.c.job_id == job_id, _UNITS.c.state == UnitState.PENDING)
            .with_for_update(skip_locked=True)
        )
        statement = (
            update(_UNITS)
            .where(_UNITS.c.id.in_(pending))
            .values(state=UnitState.CANCELLED, finished_at=_CLOCK)
            .returning(_UNITS.c.id)
        )
        return len(self._session.scalars(statement).all())

    def expire(self) -> list[str]:
        """Takes back leases that are over; returns the ids of the jobs they belong to.

        Such a unit has failed once more (WORKER_LOST; see `fail`), or is cancelled where its job no
        longer wants it.
        """
        over = (
            select(_UNITS.c.id)
            .where(_UNITS.c.state == UnitState.LEASED, _UNITS.c.lease_until < _CLOCK)
            .with_for_update(skip_locked=True)
        )
        status = select(JobRow.status).where(JobRow.id == _UNITS.c.job_id).scalar_subquery()
        wanted = status.in_(_LIVE)
        statement = (
            update(_UNITS)
            .where(_UNITS.c.id.in_(over))
            .values(
                state=case(
                    (~wanted, UnitState.CANCELLED),
                    (_SPENT, _GIVEN_UP),
                    else_=UnitState.PENDING,
                ),
                failures=_FAILURES,
                error=WORKER_LOST,
                finished_at=case((~wanted | _SPENT, _CLOCK), else_=None),
                **_UNHELD,
            )
            .returning(_UNITS.c.job_id, _UNITS.c.kind, _TOOK)
        )
        expired = self._session.execute(statement).all()
        self._count((row.kind, "expired", row.seconds) for row in expired)
        return sorted({row.job_id for row in expired})

    def get(self, unit_id: int) -> Unit | None:
        """The unit of that id."""
        row = self._session.execute(select(*_UNITS.c).where(_UNITS.c.id == unit_id)).one_or_none()
        return None if row is None else _unit(row)

    def for_job(
        self,
        job_id: str,
        kind: UnitKind | None = None,
        generation: int | None = None,
        resolution: int | None = None,
        but: Collection[int] = (),
    ) -> list[Unit]:
        """A job's units in order of generation and shard; of one kind, generation or input if
        named. but: ids of units that are left out."""
        statement = select(*_UNITS.c).where(_UNITS.c.job_id == job_id)
        if kind is not None:
            statement = statement.where(_UNITS.c.kind == kind)
        if generation is not None:
            statement = statement.where(_UNITS.c.generation == generation)
        if resolution is not None:
            statement = statement.where(_UNITS.c.resolution == resolution)
        if but:
            statement = statement.where(_UNITS.c.id.not_in(but))
        order = (_UNITS.c.resolution, _UNITS.c.generation, _UNITS.c.shard, _UNITS.c.id)
        return [_unit(row) for row in self._session.execute(statement.order_by(*order))]

    def all_over(self, job_id: str) -> bool:
        """Whether none of a job's units is pending or leased."""
        live = exists().where(
            UnitRow.job_id == job_id, UnitRow.state.in_([UnitState.PENDING, UnitState.LEASED])
        )
        return not self._session.scalar(select(live))

    def under_way(self, job_id: str) -> bool:
        """Whether all that a job waits for are units that are pending or leased: none has failed, and
        it is not being cancelled."""
        return bool(self._session.scalar(UNDER_WAY, {"job_id": job_id, "live": list(_LIVE)}))

    def _held(self, unit_id: int, attempt: int) -> Update:
        """An UPDATE of the unit, if this very attempt still holds its lease."""
        return update(_UNITS).where(
            _UNITS.c.id == unit_id,
            _UNITS.c.attempt == attempt,
            _UNITS.c.state == UnitState.LEASED,
        )

    def _let_go(
        self, unit_id: int, attempt: int, values: dict[str, Any], outcome: str | None = None
    ) -> bool:
        """The end of an attempt, counted. False: it holds the lease no longer."""
        statement = self._held(unit_id, attempt).values(**values)
        statement = statement.returning(_UNITS.c.kind, _UNITS.c.state, _TOOK)
        row = self._session.execute(statement).one_or_none()
        if row is not None:
            retried = "retried" if row.state == UnitState.PENDING else row.state
            self._count([(row.kind, outcome or retried, row.seconds)])
            return True
        self._count_fenced(unit_id)
        return False

    def _count_fenced(self, unit_id: int) -> None:
        """A write that came too late; not of a unit whose job is deleted."""
        kinds = self._session.scalars(select(_UNITS.c.kind).where(_UNITS.c.id == unit_id))
        self._count((kind, "fenced", 0.0) for kind in kinds)

    def _count(self, outcomes: Iterable[tuple[str, str, float]]) -> None:
        TallyRepository(self._session).add("unit", outcomes)
