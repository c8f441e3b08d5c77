"""Finding, listing and cancelling jobs: one transaction each, wake-ups after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.db.evaluations import EvaluationRepository
from service.db.events import EventRepository
from service.db.jobs import JobRepository
from service.db.receipts import ReceiptRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.errors import (
    FieldError,
    JobAlreadyTerminal,
    JobNotFound,
    ReceiptNotFound,
    ValidationFailed,
)
from service.domain.events import JobEvent
from service.domain.records import (
    Evaluation,
    Job,
    Json,
    evaluation_number,
    is_job_id,
    is_name,
)
from service.domain.status import JobStatus
from service.queue import wake_job

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A piece of a list, and whether more follows."""

    items: list[Item]
    has_more: bool


class JobService:
    """What callers may do with their jobs; every method is one transaction."""

    def __init__(self, engine: Engine, celery: Celery) -> None:
        self._engine = engine
        self._celery = celery

    def get(self, owner: str, job_id: str) -> Job:
        """One of the owner's jobs.

        Raises:
            JobNotFound: there is none, or it is someone else's.
        """
        with session_scope(self._engine) as session:
            return owned(JobRepository(session).get(_checked(job_id), owner))

    def shown(self, owner: str, job_id: str) -> Job:
        """As `get`, without what the job found."""
        with session_scope(self._engine) as session:
            return shown(session, owner, job_id)

    def candidates(
        self, owner: str, job_id: str, limit: int, after: str | None
    ) -> Page[Evaluation]:
        """The evaluations of one of the owner's jobs, oldest first.

        Raises:
            JobNotFound: there is none, or it is someone else's.
            ValidationFailed: `after` is no evaluation of the job.
        """
        with session_scope(self._engine) as session:
            shown(session, owner, job_id)
            evaluations = EvaluationRepository(session)
            last = None
            if after is not None:
                number = evaluation_number(after)
                last = None if number is None else evaluations.get(job_id, number)
                if last is None:
                    raise bad_cursor()
            found = evaluations.for_job(job_id, limit + 1, last)
        return Page(found[:limit], has_more=len(found) > limit)

    def best_candidate(self, job: Job) -> Evaluation | None:
        """The best of a job's candidates that were evaluated so far."""
        with session_scope(self._engine) as session:
            return EvaluationRepository(session).best(job.id)

    def events(self, owner: str, job_id: str, seen: int) -> tuple[Job, list[JobEvent]]:
        """One of the owner's jobs, and its events that follow the one of id `seen`.

        Raises:
            JobNotFound: there is none, or it is someone else's.
            ValidationFailed: the job has not come as far as `seen`.
        """
        with session_scope(self._engine) as session:
            # The job first: where it has ended by now, its last event is among those read next.
            job = shown(session, owner, job_id)
            events = EventRepository(session)
            found = events.of_job(job.id, seen)
            if not found and seen > events.last_id(job.id):
                message = "not an event of this job: send the id of the last event you have seen"
                pointer = "/Last-Event-ID"
                raise ValidationFailed(message, [FieldError(pointer, "event_id", message)])
        return job, found

    def receipt(self, owner: str, job_id: str, receipt_id: str) -> Json:
        """The document of a receipt of one of the owner's jobs.

        Raises:
            JobNotFound, ReceiptNotFound: there is none.
        """
        with session_scope(self._engine) as session:
            job = owned(JobRepository(session).get(_checked(job_id), owner))
            document = None
            if is_name(receipt_id):
                document = ReceiptRepository(session).get(job.id, receipt_id)
        if document is None:
            raise ReceiptNotFound("the job has no receipt of this id; its front names them")
        return document

    def page(
        self, owner: str, limit: int, after: str | None, status: JobStatus | None
    ) -> Page[Job]:
        """The owner's jobs, newest first, from the one that follows job `after`; no dry runs.

        Raises:
            ValidationFailed: `after` is no job of the list.
        """
        with session_scope(self._engine) as session:
            jobs = JobRepository(session)
            last = None
            if after is not None:
                last = jobs.shown(after, owner) if is_job_id(after) else None
                if last is None or last.dry_run:
                    raise bad_cursor()
            found = jobs.page(owner, limit + 1, last, status)
        return Page(found[:limit], has_more=len(found) > limit)

    def cancel(self, owner: str, job_id: str) -> Job:
        """Asks for a job's end. A job no worker has begun is cancelled at once.

        Raises:
            JobNotFound: there is none, or it is someone else's.
            JobAlreadyTerminal: it has succeeded or failed.
        """
        with session_scope(self._engine) as session:
            jobs = JobRepository(session)
            job = owned(jobs.get(_checked(job_id), owner))
            job = owned(jobs.lock(job.id))
            if job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED):
                raise JobAlreadyTerminal(f"the job has {job.status}; there is nothing to cancel")
            if job.status in (JobStatus.QUEUED, JobStatus.RUNNING):
                _cancel(session, job)
            job = owned(jobs.get(job.id))
        if job.status is JobStatus.CANCELLING:
            wake_job(self._celery, job.id)
        return job


def shown(session: Session, owner: str, job_id: str) -> Job:
    """One of the owner's jobs, without what it found.

    Raises:
        JobNotFound: there is none, or it is someone else's.
    """
    return owned(JobRepository(session).shown(_checked(job_id), owner))


def bad_cursor() -> ValidationFailed:
    """The answer to a cursor this list did not give."""
    message = "not a cursor of this list: pass next_cursor of the page before"
    return ValidationFailed(message, [FieldError("/after", "cursor", message)])


def _checked(job_id: str) -> str:
    """The id, if it has the form of one: anything else never reaches the database."""
    if not is_job_id(job_id):
        raise _no_such_job()
    return job_id


def owned(job: Job | None) -> Job:
    """What was found of the owner's job.

    Raises:
        JobNotFound: nothing.
    """
    if job is None:
        raise _no_such_job()
    return job


def _no_such_job() -> JobNotFound:
    return JobNotFound("you have no job of this id; GET /jobs lists yours")


def _cancel(session: Session, job: Job) -> None:
    """Cancels a locked job that is queued or running."""
    jobs, units = JobRepository(session), UnitRepository(session)
    units.cancel_pending(job.id)
    # A worker may hold the first unit of a job that is still called queued: it must be told.
    if job.status is JobStatus.QUEUED and units.all_over(job.id):
        jobs.cancelled(job.id)
    else:
        jobs.request_cancel(job.id)
