"""The steps of jobs, each one transaction: lock the job, read, decide, apply, commit; then wake.

A step that is taken twice, or by two workers at once, is taken once: the job's row is locked, and
what the second one reads has the first one's decision in it.
"""

from __future__ import annotations

import logging

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.db.artefacts import ArtefactStore
from service.db.evaluations import EvaluationRepository
from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.receipts import ReceiptRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.logs import about
from service.domain.records import Job, LatencyMapRecord, Unit
from service.domain.status import TRAINING_KINDS, JobStatus, Stage, UnitKind
from sparsevit.search.latency_map import LatencyMap
from worker import training_files
from worker.coordinator import step
from worker.decisions import WAIT, Decision, End
from worker.evaluation_log import EvaluationLog
from worker.job_rows import map_keys, searched_at
from worker.step_memory import JobMemory, StepMemory

logger = logging.getLogger(__name__)

UNITS_OF = {
    Stage.INSPECT: UnitKind.INSPECT,
    Stage.CALIBRATE: UnitKind.CALIBRATE,
    Stage.ADAPT: UnitKind.ADAPT,
    Stage.VERIFY: UnitKind.MEASURE,
    Stage.FINETUNE: UnitKind.FINETUNE,
}

INTERNAL = {
    "code": "INTERNAL",
    "message": "The next step of this job could not be worked out; the worker's log says why. "
    "Please report this.",
}


def advance(
    engine: Engine, store: ArtefactStore, job_id: str, memory: StepMemory | None = None
) -> list[str | None]:
    """Take steps until the job waits for its units.

    memory: of this process, where it takes more steps than these. Training checkpoints that no slice
    goes on from any more are removed from the store.
    Returns the device model (None: any) of every unit that was added meanwhile: these may be woken.
    """
    memory = memory or StepMemory()
    added: list[str | None] = []
    while True:
        with session_scope(engine) as session:
            # Most of the times some unit is still under way: no need to lock anything for that.
            # Whoever hands in the last one looks after its result is committed.
            if UnitRepository(session).under_way(job_id):
                return added
            job = JobRepository(session).lock(job_id)
            if job is None or job.status.terminal:
                memory.forget(job_id)
                return added
            with about(request_id=job.request_id):
                decision = _step(session, store, job, memory.of(job_id))
            if decision == WAIT:
                return added
        added += [job.device] * len(decision.units)


def _step(session: Session, store: ArtefactStore, job: Job, memory: JobMemory) -> Decision:
    """Of a job that is locked; WAIT changes nothing."""
    decision = _decide(session, job, memory)
    if decision != WAIT:
        _apply(session, job, decision)
        _tidy(session, store, job, decision)
        # While the job is locked, as all that touches what is known of it. Should the commit fail,
        # the next step comes to the same folds.
        memory.keep(job, decision.endings)
    return decision


def _decide(session: Session, job: Job, memory: JobMemory) -> Decision:
    records = _latency_maps(session, job)
    evaluations = memory.evaluations(session)
    try:
        units = _units(session, job, evaluations, memory)
        rival_folds = memory.rival_folds(session, job)
        maps = [one and LatencyMap.from_dict(one.document) for one in records]
        return step(job, units, evaluations, maps, rival_folds)
    except SQLAlchemyError:
        raise  # of this moment, not of the rows
    except Exception:
        # The same rows give the same error for ever: a job must end, not be stepped on for ever.
        logger.exception("the next step of %s failed", job.id)
        return Decision(end=End(JobStatus.FAILED, error=INTERNAL))


def _units(session: Session, job: Job, evaluations: EvaluationLog, memory: JobMemory) -> list[Unit]:
    """The units of the job's stage; of a search, those of its last generation."""
    stage = job.stage or Stage.INSPECT
    if stage != Stage.SEARCH:
        return UnitRepository(session).for_job(job.id, UNITS_OF[stage])
    resolution = searched_at(job)
    last = max(0, evaluations.generations(resolution) - 1)
    return memory.units(session, job, last, resolution)


def _latency_maps(session: Session, job: Job) -> list[LatencyMapRecord | None]:
    """The map that the job uses, or could, at each of its inputs."""
    maps = LatencyMapRepository(session)
    return [None if key is None else maps.get(key) for key in map_keys(job)]


def _apply(session: Session, job: Job, decision: Decision) -> None:
    jobs = JobRepository(session)
    if decision.inspection is not None:
        inspection = decision.inspection
        assert decision.device is not None
        jobs.start(job.id)  # its worker may have died between claim and start
        jobs.set_inspection(
            job.id,
            dict(inspection),
            decision.device,
            inspection["checkpoint_sha256"],
            inspection["dataset_sha256"],
        )
    if decision.stage is not None:
        jobs.set_stage(job.id, decision.stage)
    if decision.weights is not None:
        jobs.set_weights(job.id, dict(decision.weights))
    if decision.front is not None:
        front = [dict(point) for point in decision.front]
        jobs.set_front(job.id, front, dict(decision.artefacts or {}))
    if decision.progress is not None:
        jobs.set_progress(job.id, dict(decision.progress), decision.estimated_finish_at)
    if decision.verdicts:
        jobs.add_verdicts(job.id, decision.verdicts)
    _keep_map_and_receipts(session, job, decision)
    _add_rows(session, job, decision)
    if decision.end is not None:
        _end(session, job, decision.end)


def _tidy(session: Session, store: ArtefactStore, job: Job, decision: Decision) -> None:
    """Removes what a training needs no more; the slice that superseded it is committed."""
    slices = [unit for unit in decision.units if unit.kind in TRAINING_KINDS]
    if decision.end is not None:
        training_files.remove(training_files.job_folder(store.root, job.id))
    if decision.end is not None or decision.weights is not None or slices:
        current = slices[0].payload["checkpoint"] if slices else None
        training_files.drop_superseded(session, store, job.id, current)


def _keep_map_and_receipts(session: Session, job: Job, decision: Decision) -> None:
    if decision.latency_map is not None:
        assert job.device is not None
        summary = None if decision.map_summary is None else dict(decision.map_summary)
        maps = LatencyMapRepository(session)
        document = dict(decision.latency_map)
        maps.add(document["key"], job.device, document, summary)
    if decision.latency_map_key is not None:
        JobRepository(session).set_latency_map(job.id, decision.latency_map_key)
    if decision.resolutions is not None:
        told = [dict(one) for one in decision.resolutions]
        JobRepository(session).set_resolutions(job.id, told)
    if decision.latency is not None:
        JobRepository(session).set_latency(job.id, dict(decision.latency))
    for receipt_id, document in (decision.receipts or {}).items():
        kind = job.stage or Stage.CALIBRATE
        ReceiptRepository(session).add(job.id, receipt_id, kind, dict(document))


def _add_rows(session: Session, job: Job, decision: Decision) -> None:
    evaluations = EvaluationRepository(session)
    evaluations.end(decision.endings)
    if decision.generation is not None:
        new = decision.generation
        evaluations.add(job.id, new.number, new.proposals, new.resolution)
    UnitRepository(session).add_all(job.id, job.device, [vars(unit) for unit in decision.units])


def _end(session: Session, job: Job, end: End) -> None:
    jobs = JobRepository(session)
    match end.status:
        case JobStatus.SUCCEEDED:
            assert end.document is not None or job.dry_run
            jobs.succeed(job.id, None if end.document is None else dict(end.document))
        case JobStatus.FAILED:
            error = end.error or INTERNAL
            jobs.fail(job.id, error["code"], error["message"], error.get("pointer"))
        case JobStatus.CANCELLED:
            jobs.cancelled(job.id)
    UnitRepository(session).cancel_pending(job.id)
    logger.info("%s %s %s", job.id, end.status, end.error["code"] if end.error else "")
