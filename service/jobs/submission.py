"""Submitting a search, and asking what one could reach: one transaction each, wake-ups after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.db.idempotency import IdempotencyRepository, Kept
from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.session import session_scope
from service.db.submissions import SubmissionRepository
from service.db.units import UnitRepository
from service.db.workers import WorkerRepository
from service.domain import latency
from service.domain.errors import (
    FieldError,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    TooManyJobs,
    ValidationFailed,
)
from service.domain.logs import written_about
from service.domain.records import Device, DryRun, Job, Json, Worker, new_job_id
from service.domain.request import SearchRequest
from service.domain.specs import BUILTIN_DIGITS
from service.domain.status import Inspection, JobStatus, UnitKind
from service.paths import FileRecord, PathResolver
from service.queue import wake_units

PASSING = timedelta(minutes=10)
"""A failure, or figures from a disturbed device, answer dry runs for so long; then one tries anew."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request with all that POST fills in."""

    owner: str
    request: Json
    checkpoint_file: Json | None
    dataset_file: Json | None
    device: str | None
    metadata: dict[str, str]

    @property
    def fingerprint(self) -> str:
        return latency.fingerprint(self.request, self.checkpoint_file, self.dataset_file)

    @property
    def subject(self) -> tuple[str, str, str | None]:
        """Whose latencies, of what, and where."""
        return self.owner, self.fingerprint, self.device


@dataclass(frozen=True, slots=True)
class Once:
    """A submission that is made once, however often it is sent: under a key of its owner.

    answer: what the first one is answered, which is kept.
    """

    key: str
    body_sha256: str
    answer: Callable[[Job], Json]


class SubmissionService:
    """Takes requests."""

    def __init__(self, engine: Engine, celery: Celery, paths: PathResolver, open_jobs: int) -> None:
        self._engine = engine
        self._celery = celery
        self._paths = paths
        self._open_jobs = open_jobs

    def submit_once(self, owner: str, request: SearchRequest, once: Once) -> tuple[Json, bool]:
        """As `submit`, unless that was done under this key: the answer, and whether it is a repeated
        one.

        Raises:
            IdempotencyKeyReused: the key stands for another body.
            IdempotencyKeyInFlight: another request with it is being answered.
        """
        with session_scope(self._engine) as session:
            keys = IdempotencyRepository(session)
            if not keys.take(owner, once.key):
                raise IdempotencyKeyInFlight(
                    "a request with this Idempotency-Key is being answered"
                )
            kept = keys.find(owner, once.key)
            if kept is not None:
                return _checked_answer(kept, once), True
            job = self._submit(session, owner, request)
            answer = once.answer(job)
            keys.keep(owner, once.key, Kept(once.body_sha256, job.id, answer))
        wake_units(self._celery, job.device)
        return answer, False

    def submit(self, owner: str, request: SearchRequest) -> Job:
        """Stores a queued job with its first unit, then wakes a worker.

        Raises:
            RequestError: paths that may not be used, a device nobody has seen, a budget that is
                known to be out of reach.
            TooManyJobs: so many of the owner's are under way.
        """
        with session_scope(self._engine) as session:
            job = self._submit(session, owner, request)
        wake_units(self._celery, job.device)
        return job

    def _submit(self, session: Session, owner: str, request: SearchRequest) -> Job:
        asked = _asked(session, owner, request, *self._files(request))
        answered = _answered(session, asked)
        if answered is not None:
            latency.check_reachable(latency.figures_of(answered), asked.request)
        self._check_open_jobs(session, owner)
        return _add(session, asked)

    def dry_run(self, owner: str, request: SearchRequest) -> DryRun:
        """What is known of the request's latencies; where nothing is, a job that measures them.

        Two equal requests, or two that differ in what latencies do not depend on, share that job.

        Raises:
            RequestError: as `submit`, but for the budget.
        """
        files = self._files(request)
        with session_scope(self._engine) as session:
            asked = _asked(session, owner, request, *files)
            SubmissionRepository(session).take_turns(owner, asked.fingerprint)
            answered = _answered(session, asked)
            if answered is not None:
                return DryRun(asked.request, Inspection.READY, answered)
            submissions = SubmissionRepository(session)
            job = submissions.latest_dry_run(*asked.subject, failed_within=PASSING)
            if job is not None:
                failed = job.status is JobStatus.FAILED
                return DryRun(
                    asked.request, Inspection.FAILED if failed else Inspection.PENDING, job
                )
            self._check_open_jobs(session, owner)
            job = _add(session, asked, dry_run=True)
        wake_units(self._celery, asked.device)
        return DryRun(asked.request, Inspection.PENDING, job)

    def _check_open_jobs(self, session: Session, owner: str) -> None:
        jobs = SubmissionRepository(session)
        # Or two submissions at once would both be the last one that is allowed.
        jobs.take_turns(owner, "open jobs")
        if jobs.count_open(owner) >= self._open_jobs:
            raise TooManyJobs(
                f"{self._open_jobs} of your jobs are under way, which is the limit (OPEN_JOBS): "
                "wait for one of them to end, or cancel one"
            )

    def _files(self, request: SearchRequest) -> tuple[Json | None, Json | None]:
        """What is at the request's paths: checkpoint, data set."""
        return (
            _record(self._paths.resolve_checkpoint, request.checkpoint, "/checkpoint"),
            _record(self._paths.resolve, request.dataset.path, "/dataset/path"),
        )


def _checked_answer(kept: Kept, once: Once) -> Json:
    if kept.body_sha256 != once.body_sha256:
        raise IdempotencyKeyReused(
            "this Idempotency-Key stands for another request: take a new one for each search"
        )
    return kept.answer


def _record(resolve: Callable[[str, str], FileRecord], path: str, pointer: str) -> Json | None:
    """What is at the path; None for what ships with the library."""
    return None if path == BUILTIN_DIGITS else resolve(path, pointer).to_dict()


def _asked(
    session: Session,
    owner: str,
    request: SearchRequest,
    checkpoint_file: Json | None,
    dataset_file: Json | None,
) -> _Asked:
    """The request with the device it is for."""
    device = resolve_device(request.device, WorkerRepository(session).devices())
    filled_in = request.model_copy(update={"device": device}).model_dump(mode="json")
    return _Asked(owner, filled_in, checkpoint_file, dataset_file, device, request.metadata)


def _answered(session: Session, asked: _Asked) -> Job | None:
    """The job whose figures answer the request: the latest one, unless they would differ by now."""
    job = SubmissionRepository(session).latest_answered(*asked.subject)
    if job is None or job.latency is None:
        return None
    workers = WorkerRepository(session).all(device=asked.device)
    standing = all(_stands(session, one, workers) for one in latency.figures_of(job))
    return job if standing else None


def _stands(session: Session, found: Json, workers: list[Worker]) -> bool:
    """Whether figures would come out the same by now."""
    figures = LatencyMapRepository(session).figures(found["key"])
    if figures is None or (found["disturbed"] and figures.age > PASSING):
        return False
    return not latency.is_stale(figures.facts, workers)


def _add(session: Session, asked: _Asked, dry_run: bool = False) -> Job:
    """A queued job with its first unit."""
    job = JobRepository(session).add(
        new_job_id(),
        asked.owner,
        asked.request,
        asked.checkpoint_file,
        asked.dataset_file,
        asked.device,
        asked.metadata,
        fingerprint=asked.fingerprint,
        dry_run=dry_run,
        request_id=written_about("request_id"),
    )
    UnitRepository(session).add(job.id, UnitKind.INSPECT, {}, device=asked.device)
    return job


def resolve_device(named: str | None, known: list[Device]) -> str | None:
    """The device model a job is for; None where it may be any, because none is known yet.

    Raises:
        ValidationFailed: never seen, or not clear which of several.
    """
    if named is None:
        if len(known) > 1:
            raise _bad_device("several devices are known: name one of GET /devices")
        return known[0].name if known else None
    matching = [device.name for device in known if device.name == named] or [
        device.name for device in known if device.kind == named
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise _bad_device("several devices are of this kind: name one of GET /devices")
    raise _bad_device("no worker with this device was ever seen: name one of GET /devices")


def _bad_device(message: str) -> ValidationFailed:
    return ValidationFailed(message, [FieldError("/device", "device", message)])
