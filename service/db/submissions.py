"""What a submission asks about the jobs its owner has."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from service.db.job_columns import ACTIVE, JOBS, job_of
from service.domain.records import Job
from service.domain.status import JobStatus


class SubmissionRepository:
    """An owner's jobs as a new one meets them, within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take_turns(self, owner: str, fingerprint: str) -> None:
        """Waits until no other transaction looks for, or adds, a job of this kind."""
        key = func.hashtextextended(f"{owner} {fingerprint}", 0)
        self._session.execute(select(func.pg_advisory_xact_lock(key)))

    def count_open(self, owner: str) -> int:
        """How many of an owner's jobs have not ended, dry runs included."""
        open_ = JOBS.c.status.in_([status for status in JobStatus if not status.terminal])
        statement = select(func.count()).where(JOBS.c.owner == owner, open_)
        return self._session.scalar(statement) or 0

    def latest_answered(self, owner: str, fingerprint: str, device: str | None) -> Job | None:
        """The owner's latest job on that device that knows its latencies, dry or not."""
        return self._latest(
            JOBS.c.owner == owner,
            JOBS.c.fingerprint == fingerprint,
            JOBS.c.device == device,
            JOBS.c.latency.is_not(None),
        )

    def latest_dry_run(
        self, owner: str, fingerprint: str, device: str | None, failed_within: timedelta
    ) -> Job | None:
        """The owner's latest dry run that is under way, or failed no longer ago than that."""
        failed = JOBS.c.status == JobStatus.FAILED
        lately = JOBS.c.finished_at > func.clock_timestamp() - failed_within
        return self._latest(
            JOBS.c.owner == owner,
            JOBS.c.fingerprint == fingerprint,
            # Where the request left it open, the inspection settles it.
            or_(JOBS.c.device == device, JOBS.c.device.is_(None)),
            JOBS.c.dry_run,
            or_(JOBS.c.status.in_(ACTIVE), failed & lately),
        )

    def _latest(self, *conditions: ColumnElement[bool]) -> Job | None:
        order = (JOBS.c.created_at.desc(), JOBS.c.id.desc())
        statement = select(*JOBS.c).where(*conditions).order_by(*order).limit(1)
        row = self._session.execute(statement).one_or_none()
        return None if row is None else job_of(row._mapping)
