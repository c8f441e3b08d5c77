"""Statements on jobs.

A change of state is one UPDATE whose WHERE names the states it may start from (the table in
`service.domain.status`); it returns False where the job was in none of them. Every change that a
reader could see raises `version`, and those that watchers are told of leave an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Select,
    bindparam,
    exists,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from service.db.events import EventRepository
from service.db.job_columns import ACTIVE, JOBS, LISTED, SHOWN, job_of
from service.db.models import JobRow, UnitRow
from service.db.tallies import TallyRepository
from service.domain.events import FIELDS
from service.domain.records import Job, Json
from service.domain.status import (
    TERMINAL,
    TRAINING_STAGES,
    JobStatus,
    Stage,
    UnitState,
    sources,
)

_CLOCK = func.clock_timestamp()
# Made once: to make a statement of thirty columns takes longer than to run it.
_GET = select(*JOBS.c).where(JOBS.c.id == bindparam("job_id"))
_GET_OWNED = _GET.where(JOBS.c.owner == bindparam("owner"))
_GET_SHOWN = select(*SHOWN).where(
    JOBS.c.id == bindparam("job_id"), JOBS.c.owner == bindparam("owner")
)
EMPTY_PROGRESS: Json = {
    "done": 0,
    "failed": 0,
    "total": None,
    "generation": None,
    "best": None,
    "stop": None,
    "training": None,
    "postponed": None,
}


class JobRepository:
    """Jobs within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        job_id: str,
        owner: str,
        request: Json,
        checkpoint_file: Json | None,
        dataset_file: Json | None,
        device: str | None,
        metadata: dict[str, str],
        *,
        fingerprint: str | None = None,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> Job:
        """Inserts a queued job."""
        statement = (
            insert(JOBS)
            .values(
                id=job_id,
                owner=owner,
                status=JobStatus.QUEUED,
                request=request,
                checkpoint_file=checkpoint_file,
                dataset_file=dataset_file,
                device=device,
                progress=EMPTY_PROGRESS,
                metadata=metadata,
                fingerprint=fingerprint,
                dry_run=dry_run,
                request_id=request_id,
            )
            .returning(*JOBS.c)
        )
        job = job_of(self._session.execute(statement).one()._mapping)
        EventRepository(self._session).add(job.id, job.version, {"status": job.status})
        return job

    def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """The job; None where there is none, or it is not `owner`'s (None: anyone's)."""
        statement = _GET if owner is None else _GET_OWNED
        return self._one(statement, {"job_id": job_id, "owner": owner})

    def shown(self, job_id: str, owner: str) -> Job | None:
        """As `get`, without what the job found (`result` and `front` are None)."""
        return self._one(_GET_SHOWN, {"job_id": job_id, "owner": owner})

    def _one(self, statement: Select[Any], parameters: Json) -> Job | None:
        row = self._session.execute(statement, parameters).one_or_none()
        return None if row is None else job_of(row._mapping)

    def lock(self, job_id: str) -> Job | None:
        """The job, held until the transaction ends: steps and cancellations take turns.

        FOR NO KEY UPDATE: units that refer to the job may be inserted and claimed meanwhile.
        """
        statement = select(*JOBS.c).where(JOBS.c.id == job_id).with_for_update(key_share=True)
        row = self._session.execute(statement).one_or_none()
        return None if row is None else job_of(row._mapping)

    def page(
        self, owner: str, limit: int, after: Job | None = None, status: JobStatus | None = None
    ) -> list[Job]:
        """An owner's jobs, newest first, from the one that follows `after`; no dry runs.

        Their outcome and the details that lists leave out are None."""
        order = (JOBS.c.created_at, JOBS.c.id)
        statement = select(*LISTED).where(JOBS.c.owner == owner, ~JOBS.c.dry_run)
        if status is not None:
            statement = statement.where(JOBS.c.status == status)
        if after is not None:
            statement = statement.where(tuple_(*order) < tuple_(after.created_at, after.id))
        statement = statement.order_by(*(column.desc() for column in order)).limit(limit)
        return [job_of(row._mapping) for row in self._session.execute(statement)]

    def due_for_step(self) -> list[str]:
        """Ids of jobs whose next step nobody is working towards.

        These are the live jobs without a pending or leased unit, and the cancelling ones without
        a leased unit.
        """
        waiting = exists().where(
            UnitRow.job_id == JobRow.id,
            UnitRow.state.in_([UnitState.PENDING, UnitState.LEASED]),
        )
        leased = exists().where(UnitRow.job_id == JobRow.id, UnitRow.state == UnitState.LEASED)
        statement = (
            select(JobRow.id)
            .where(
                or_(
                    JobRow.status.in_(ACTIVE) & ~waiting,
                    (JobRow.status == JobStatus.CANCELLING) & ~leased,
                )
            )
            .order_by(JobRow.created_at)
        )
        return list(self._session.scalars(statement))

    def start(self, job_id: str) -> bool:
        """queued -> running, at the first claim of one of its units."""
        values = {"stage": Stage.INSPECT, "started_at": _CLOCK}
        return self._become(job_id, JobStatus.RUNNING, values)

    def set_inspection(
        self,
        job_id: str,
        inspection: Json,
        device: str,
        checkpoint_sha256: str,
        dataset_sha256: str,
    ) -> bool:
        """Records what the inspection found, and the device model the job runs on from here."""
        values = {
            "inspection": inspection,
            "device": device,
            "checkpoint_sha256": checkpoint_sha256,
            "dataset_sha256": dataset_sha256,
        }
        return self._change(job_id, ACTIVE, values)

    def set_latency_map(self, job_id: str, key: str) -> bool:
        """Records the map whose predictions the job uses."""
        return self._change(job_id, ACTIVE, {"latency_map_key": key})

    def set_latency(self, job_id: str, latency: Json) -> bool:
        """Records what the map answers for the job's space."""
        return self._change(job_id, ACTIVE, {"latency": latency})

    def set_resolutions(self, job_id: str, resolutions: Sequence[Json]) -> bool:
        """Records how far each of the job's several inputs is."""
        return self._change(job_id, ACTIVE, {"resolutions": list(resolutions)})

    def set_weights(self, job_id: str, weights: Json) -> bool:
        """Records the weights the job made, {"sha256", "source"}: it runs on these from here."""
        return self._change(job_id, ACTIVE, {"weights": weights})

    def set_stage(self, job_id: str, stage: Stage) -> bool:
        """Records what the job is busy with now."""
        return self._change(job_id, ACTIVE, {"stage": stage})

    def set_progress(
        self, job_id: str, progress: Json, estimated_finish_at: datetime | None = None
    ) -> bool:
        """Records the fields of EMPTY_PROGRESS, and when the job should end."""
        values = {"progress": progress, "estimated_finish_at": estimated_finish_at}
        return self._change(job_id, ACTIVE, values)

    def set_training(self, job_id: str, training: Json) -> bool:
        """Records how far the slice that runs is: {step, steps, loss}. False where none can run: a
        worker may say so when another one has ended the training."""
        job = self.lock(job_id)
        if job is None or job.stage not in TRAINING_STAGES:
            return False
        progress = {**job.progress, "training": training}
        return self._change(job_id, ACTIVE, {"progress": progress})

    def set_postponed(self, job_id: str, times: int, until: datetime) -> bool:
        """Records how often its measurement was put off, and that it is tried again then."""
        job = self.lock(job_id)
        if job is None:
            return False
        postponed = {"times": times, "until": until.isoformat()}
        return self._change(job_id, ACTIVE, {"progress": {**job.progress, "postponed": postponed}})

    def add_verdicts(self, job_id: str, verdicts: Sequence[str]) -> bool:
        """Adds verdicts the job does not have yet, in order."""
        job = self.lock(job_id)
        if job is None:
            return False
        merged = list(dict.fromkeys([*job.verdicts, *verdicts]))
        return merged == job.verdicts or self._change(job_id, ACTIVE, {"verdicts": merged})

    def set_front(self, job_id: str, front: list[Json], artefacts: dict[str, str]) -> bool:
        """Records front and plots of a search, for a job that then fails as well as succeeds."""
        return self._change(job_id, ACTIVE, {"front": front, "artefacts": artefacts})

    def succeed(self, job_id: str, result: Json | None) -> bool:
        """running -> succeeded, with the best config document; a dry run has none."""
        return self._end(job_id, JobStatus.SUCCEEDED, {"result": result})

    def fail(self, job_id: str, code: str, message: str, pointer: str | None = None) -> bool:
        """queued or running -> failed, with a reason that says what to do."""
        error = {"code": code, "message": message, "pointer": pointer}
        return self._end(job_id, JobStatus.FAILED, {"error": error})

    def request_cancel(self, job_id: str) -> bool:
        """queued or running -> cancelling; heartbeats tell the workers."""
        values = {"cancel_requested_at": _CLOCK}
        return self._become(job_id, JobStatus.CANCELLING, values)

    def cancelled(self, job_id: str) -> bool:
        """cancelling (or queued and never claimed) -> cancelled."""
        values = {"cancel_requested_at": func.coalesce(JOBS.c.cancel_requested_at, _CLOCK)}
        return self._end(job_id, JobStatus.CANCELLED, values)

    def _end(self, job_id: str, target: JobStatus, values: dict[str, Any]) -> bool:
        ending = {"stage": None, "finished_at": _CLOCK, "estimated_finish_at": None}
        if not self._become(job_id, target, {**ending, **values}):
            return False
        TallyRepository(self._session).job_ended(job_id)
        return True

    def _become(self, job_id: str, target: JobStatus, values: dict[str, Any]) -> bool:
        return self._change(job_id, sources(target), {"status": target, **values})

    def _change(
        self,
        job_id: str,
        states: frozenset[JobStatus],
        values: dict[str, Any],
    ) -> bool:
        """The one UPDATE of this table: from `states` only, and version + 1; with its event."""
        assert not states & TERMINAL, "a terminal job never changes"
        statement = (
            update(JOBS)
            .where(JOBS.c.id == job_id, JOBS.c.status.in_(states))
            .values(version=JOBS.c.version + 1, **values)
            .returning(JOBS.c.version, *(JOBS.c[name] for name in FIELDS))
        )
        row = self._session.execute(statement).one_or_none()
        if row is None:
            return False
        changed = {name: row._mapping[name] for name in values if name in FIELDS}
        EventRepository(self._session).add(job_id, row.version, changed)
        return True
