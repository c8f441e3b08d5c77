"""The JSON that routes answer with.

Plain functions make it (job objects are polled, and validating our own rows again would cost more
than the query); the models describe it in /openapi.json, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.domain.records import Device, Evaluation, Job, Json, Worker, evaluation_id
from service.domain.request import SearchRequest
from service.domain.status import EvaluationState, JobStatus, Stage, WorkerState


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Progress(_Object):
    """How far a job is."""

    done: int = Field(description="Candidates evaluated.")
    failed: int = Field(description="Candidates that could not be evaluated.")
    total: int | None = Field(description="Candidates to evaluate, at most; null: not known yet.")
    generation: int | None = Field(description="Generation being evaluated, from 0.")
    best: Any = Field(description="Best candidate so far.")


class JobError(_Object):
    """Why a job failed."""

    code: str
    message: str = Field(description="What is wrong and what to do.")
    pointer: str | None = Field(None, description="Field of the request it is about.")


class JobObject(_Object):
    """A search job."""

    id: str
    object: Literal["search_job"]
    status: JobStatus
    stage: Stage | None = Field(description="What a running job is busy with.")
    version: int = Field(description="Rises with every change; the ETag is made of it.")
    created_at: datetime
    started_at: datetime | None
    cancel_requested_at: datetime | None
    finished_at: datetime | None
    estimated_finish_at: datetime | None
    progress: Progress
    request: SearchRequest = Field(description="The request with every default filled in.")
    device: str | None = Field(description="Device model the job runs on; null: not known yet.")
    checkpoint_sha256: str | None
    dataset_sha256: str | None
    error: JobError | None
    verdicts: list[str] = Field(description="What the user should know, such as HEAD_DOMINATES.")
    metadata: dict[str, str]
    links: dict[str, str]


class JobList(_Object):
    """A page of jobs, newest first."""

    object: Literal["list"]
    data: list[JobObject]
    has_more: bool
    next_cursor: str | None = Field(description="Pass it as `after` for the next page.")


class CandidateObject(_Object):
    """One evaluated (or failed, or pending) candidate."""

    id: str
    object: Literal["candidate"]
    generation: int
    position: int = Field(description="Order of proposal within the generation, from 0.")
    genes: list[int] = Field(description="Sparsity level (tenths dropped) of each block pair.")
    state: EvaluationState
    metric: float | None
    metric_interval: list[float] | None
    predicted_latency_ms: float = Field(description="By the latency map, not measured.")
    finished_at: datetime | None


class CandidateList(_Object):
    """A page of candidates, in order of proposal."""

    object: Literal["list"]
    data: list[CandidateObject]
    has_more: bool
    next_cursor: str | None


class FrontObject(_Object):
    """The Pareto front of a job."""

    object: Literal["pareto_front"]
    job_id: str
    data: list[dict[str, Any]] = Field(
        description="The front over all evaluations on the search split. Each point has: genes, "
        "sparsity, score, metric, metric_interval, split, latency_predicted, latency_ms and "
        "latency_interval (null unless measured), measured, winner, receipt."
    )


class WorkerObject(_Object):
    """A worker."""

    id: str
    object: Literal["worker"]
    online: bool
    state: WorkerState
    device: str
    device_uuid: str
    device_kind: Literal["cpu", "cuda"]
    host: str
    versions: dict[str, Any]
    unit: int | None = Field(description="The unit it holds.")
    started_at: datetime
    seen_at: datetime


class DeviceObject(_Object):
    """A device model that some worker has reported at some time."""

    name: str = Field(description="What `device` of a search request takes.")
    object: Literal["device"]
    kind: Literal["cpu", "cuda"]
    workers_online: int
    latency_maps: int = Field(description="Latency maps that stand and are reused.")


class WorkerList(_Object):
    """Every worker, last started first."""

    object: Literal["list"]
    data: list[WorkerObject]


class DeviceList(_Object):
    """Every device model."""

    object: Literal["list"]
    data: list[DeviceObject]


def listing(
    data: Sequence[Json], has_more: bool | None = None, next_cursor: str | None = None
) -> Json:
    """A list object; `has_more` is None for lists that come in one piece."""
    whole: Json = {"object": "list", "data": list(data)}
    if has_more is None:
        return whole
    return {**whole, "has_more": has_more, "next_cursor": next_cursor if has_more else None}


def job_object(job: Job) -> Json:
    """A JobObject."""
    return {
        "id": job.id,
        "object": "search_job",
        "status": job.status,
        "stage": job.stage,
        "version": job.version,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "cancel_requested_at": timestamp(job.cancel_requested_at),
        "finished_at": timestamp(job.finished_at),
        "estimated_finish_at": timestamp(job.estimated_finish_at),
        "progress": job.progress,
        "request": job.request,
        "device": job.device,
        "checkpoint_sha256": job.checkpoint_sha256,
        "dataset_sha256": job.dataset_sha256,
        "error": job.error,
        "verdicts": job.verdicts,
        "metadata": job.metadata,
        "links": _links(job.id),
    }


def _links(job_id: str) -> dict[str, str]:
    parts = ("cancel", "config", "pareto", "windows.png", "candidates")
    return {"self": f"/jobs/{job_id}"} | {
        part.partition(".")[0]: f"/jobs/{job_id}/{part}" for part in parts
    }


def candidate_object(evaluation: Evaluation) -> Json:
    """A CandidateObject."""
    return {
        "id": evaluation_id(evaluation.id),
        "object": "candidate",
        "generation": evaluation.generation,
        "position": evaluation.position,
        "genes": evaluation.genes,
        "state": evaluation.state,
        "metric": evaluation.metric,
        "metric_interval": evaluation.metric_interval,
        "predicted_latency_ms": evaluation.latency_ms,
        "finished_at": timestamp(evaluation.finished_at),
    }


def worker_object(worker: Worker) -> Json:
    """A WorkerObject."""
    return {
        "id": worker.id,
        "object": "worker",
        "online": worker.online,
        "state": worker.state,
        "device": worker.device,
        "device_uuid": worker.device_uuid,
        "device_kind": worker.device_kind,
        "host": worker.host,
        "versions": worker.versions,
        "unit": worker.unit_id,
        "started_at": timestamp(worker.started_at),
        "seen_at": timestamp(worker.seen_at),
    }


def device_object(device: Device) -> Json:
    """A DeviceObject."""
    return {
        "name": device.name,
        "object": "device",
        "kind": device.kind,
        "workers_online": device.workers_online,
        "latency_maps": device.latency_maps,
    }


def timestamp(moment: datetime | None) -> str | None:
    """A time as RFC 3339 in UTC, with microseconds."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")
