"""The JSON of jobs and of what they have found; see `service.api.plain` on how it is made."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.api.latency_objects import LatencyObject
from service.api.plain import ApiObject, timestamp
from service.domain.records import Evaluation, Job, Json, evaluation_id
from service.domain.request import SearchRequest
from service.domain.status import EvaluationState, JobStatus, Stage

Stop = Literal["generations", "evaluations", "no_gain", "exhausted"]


class TrainingProgress(ApiObject):
    """How far an adaptation or a fine-tuning is."""

    step: int = Field(description="Optimiser steps done.", examples=[120])
    steps: int = Field(description="Optimiser steps in all.", examples=[240])
    loss: float | None = Field(description="Mean recent loss.", examples=[0.31])


class Progress(ApiObject):
    """How far a job is."""

    done: int = Field(description="Candidates evaluated, those that were dropped included.")
    failed: int = Field(description="Candidates that could not be evaluated.")
    total: int | None = Field(description="Candidates to evaluate, at most; null: not known yet.")
    generation: int | None = Field(description="Generation being evaluated, from 0.")
    best: Any = Field(description="Best candidate so far.")
    stop: Stop | None = Field(
        description="Why the search has ended: all generations or `max_evaluations` are used up, "
        "`patience` generations brought hardly a gain, or nothing new is within the budget. null: it "
        "has not."
    )
    training: TrainingProgress | None = Field(
        description="Of the stages adapt and finetune; null in every other one."
    )


class JobError(ApiObject):
    """Why a job or a candidate failed."""

    code: str
    message: str = Field(description="What is wrong and what to do.")
    pointer: str | None = Field(None, description="Field of the request it is about.")


class Weights(ApiObject):
    """Weights that a job made."""

    sha256: str
    source: Literal["adapted", "finetuned"]


class Settled(ApiObject):
    """What the request left open, and what it asked for, as the inspection filled it in."""

    task: str = Field(examples=["semantic_segmentation"])
    input: dict[str, Any] = Field(description="As in the request.")
    preprocess: dict[str, Any] = Field(
        description="As in the request, with `resize`: the input's (height, width)."
    )
    score: str = Field(examples=["variance"])
    splits: dict[str, int] = Field(
        description="Images the search scores on, and those kept for the report.",
        examples=[{"search": 400, "report": 100}],
    )
    metric: str = Field(description="Name of the metric.", examples=["miou"])
    dense_metric: dict[str, Any] | None = Field(
        description="What the dense model reached where `expected_dense_metric` was given."
    )
    adapt: dict[str, Any] | None = Field(description="Every setting of the adaptation, or null.")
    finetune: dict[str, Any] | None = Field(
        description="Every setting of the fine-tuning, or null."
    )


class JobSummary(ApiObject):
    """A search job, as lists show it."""

    id: str
    object: Literal["search_job"]
    status: JobStatus
    dry_run: bool = Field(
        description="Whether it is a dry run's: it ends once its latency map stands.",
        examples=[False],
    )
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


class ResolutionObject(ApiObject):
    """One of several inputs of a job."""

    input: dict[str, Any] = Field(description="As settled by the inspection.")
    latency: LatencyObject | None = Field(
        description="What its latency map answers; null: not known yet."
    )
    reachable: bool | None = Field(
        description="Whether a config is predicted to meet the budget. Where none is, nothing is "
        "searched, and the job has the verdict RESOLUTION_UNREACHABLE. null: not known yet."
    )
    stop: Stop | None = Field(description="Why its search has ended, as in `progress`.")


class JobObject(JobSummary):
    """A search job."""

    settled: Settled | None = Field(
        description="What the request left open, filled in; null: not inspected yet."
    )
    weights: Weights | None = Field(
        description="The last weights the job made; null: it runs on the checkpoint."
    )
    latency: LatencyObject | None = Field(
        description="What its latency map answers for its space; null: not known yet. With several "
        "inputs: that of the first."
    )
    resolutions: list[ResolutionObject] | None = Field(
        description="Of a job with several inputs: how far each is, in the order of the request. "
        "null: it has one, or they are not inspected yet."
    )


class JobList(ApiObject):
    """A page of jobs, newest first, without their latencies."""

    object: Literal["list"]
    data: list[JobSummary]
    has_more: bool
    next_cursor: str | None = Field(description="Pass it as `after` for the next page.")


class CandidateObject(ApiObject):
    """One evaluated (or dropped, failed, pending) candidate."""

    id: str
    object: Literal["candidate"]
    input: dict[str, Any] | None = Field(
        description="The input it is for; null unless the job has several."
    )
    generation: int
    position: int = Field(description="Order of proposal within the generation, from 0.")
    genes: list[int] = Field(description="Sparsity level (tenths dropped) of each block pair.")
    state: EvaluationState
    metric: float | None = Field(
        description="On the first `images` images of the search split, in their fixed random order."
    )
    metric_interval: list[float] | None = Field(
        description="Of a dropped candidate: where its metric on all of them would lie, with 95% "
        "confidence. null: it is known."
    )
    images: int | None = Field(description="Images it was evaluated on; null until it has ended.")
    rival: str | None = Field(
        description="The candidate it races against, the best parent that is predicted no slower. "
        "null: it is evaluated to the end."
    )
    predicted_latency_ms: float = Field(description="By the latency map, not measured.")
    error: JobError | None = Field(description="Of a failed candidate: why.")
    finished_at: datetime | None


class CandidateList(ApiObject):
    """A page of candidates, in order of proposal."""

    object: Literal["list"]
    data: list[CandidateObject]
    has_more: bool
    next_cursor: str | None


class FrontObject(ApiObject):
    """The Pareto front of a job."""

    object: Literal["pareto_front"]
    job_id: str
    data: list[dict[str, Any]] = Field(
        description="The front over all evaluations on the search split. Each point has: genes, "
        "sparsity, score, metric, metric_interval, split, latency_predicted, latency_ms and "
        "latency_interval (null unless measured), measured, winner, receipt; input, where the job "
        "has several."
    )


def job_object(job: Job) -> Json:
    """A JobObject."""
    return {
        **job_summary(job),
        "settled": None if job.inspection is None else _settled(job.inspection),
        "weights": job.weights,
        "latency": job.latency,
        "resolutions": job.resolutions and [_resolution(one) for one in job.resolutions],
    }


def _resolution(told: Json) -> Json:
    return {name: told[name] for name in ("input", "latency", "reachable", "stop")}


def _settled(inspection: Json) -> Json:
    copied = ("task", "input", "preprocess", "score", "splits", "dense_metric", "adapt", "finetune")
    # A job that an older version inspected has fewer of them.
    found = {name: inspection.get(name) for name in copied}
    return {**found, "metric": inspection["metric"]["name"]}


def job_summary(job: Job) -> Json:
    """A JobSummary."""
    return {
        "id": job.id,
        "object": "search_job",
        "status": job.status,
        "dry_run": job.dry_run,
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
    parts = ("cancel", "config", "weights", "pareto", "windows.png", "latency.png", "candidates")
    parts += ("events",)
    return {"self": f"/jobs/{job_id}"} | {
        part.partition(".")[0]: f"/jobs/{job_id}/{part}" for part in parts
    }


def candidate_object(evaluation: Evaluation, job: Job) -> Json:
    """A CandidateObject, of one of the job's."""
    told = job.resolutions
    return {
        "id": evaluation_id(evaluation.id),
        "object": "candidate",
        "input": None if told is None else told[evaluation.resolution]["input"],
        "generation": evaluation.generation,
        "position": evaluation.position,
        "genes": evaluation.genes,
        "state": evaluation.state,
        "metric": evaluation.metric,
        "metric_interval": evaluation.metric_interval,
        "images": evaluation.images,
        "rival": None if evaluation.rival_id is None else evaluation_id(evaluation.rival_id),
        "predicted_latency_ms": evaluation.latency_ms,
        "error": evaluation.error,
        "finished_at": timestamp(evaluation.finished_at),
    }
