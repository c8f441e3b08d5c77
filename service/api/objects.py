"""The JSON of jobs; see `service.api.plain` on how it is made."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.api.described import JOB_ID, SHA256
from service.api.latency_objects import LatencyObject, Ms
from service.api.plain import ApiObject, JobError, timestamp
from service.api.result_objects import INPUT, PREPROCESS
from service.domain.records import Job, Json
from service.domain.request import SearchRequest
from service.domain.status import JobStatus, Stage

Stop = Literal["generations", "evaluations", "no_gain", "exhausted"]

CREATED, ENDED = "2026-01-02T03:04:05.678901+00:00", "2026-01-02T04:31:00.000001+00:00"
DENSE_METRIC = {
    "value": 0.809,
    "interval": [0.76, 0.855],
    "expected": 0.812,
    "images": 256,
    "split": "val",
}
TRAINING = {
    "epochs": 12,
    "learning_rate": 1e-05,
    "batch": 32,
    "accumulate": 1,
    "precision": "bf16",
    "weight_decay": 0.05,
    "warmup": 500,
    "seed": 0,
    "augment": True,
}


class TrainingProgress(ApiObject):
    """How far an adaptation or a fine-tuning is."""

    step: int = Field(description="Optimiser steps done.", examples=[120])
    steps: int = Field(description="Optimiser steps in all.", examples=[240])
    loss: float | None = Field(description="Mean recent loss.", examples=[0.31])


class Postponed(ApiObject):
    """A measurement that was put off, since its device was never quiet."""

    times: int = Field(description="How often so far.", examples=[1])
    until: datetime = Field(description="When it is, or was, tried again.", examples=[ENDED])


class BestSoFar(ApiObject):
    """The best candidate so far."""

    metric: float = Field(description="On the search split.", examples=[0.781])
    latency_ms: Ms = Field(description="By the latency map.", examples=[25.3])


class Progress(ApiObject):
    """How far a job is."""

    done: int = Field(
        description="Candidates evaluated, those that were dropped included.", examples=[600]
    )
    failed: int = Field(description="Candidates that could not be evaluated.", examples=[0])
    total: int | None = Field(
        description="Candidates to evaluate, at most; null: not known yet.", examples=[3000]
    )
    generation: int | None = Field(
        description="Generation being evaluated, from 0; null: none yet.", examples=[6]
    )
    best: BestSoFar | None = Field(description="Best candidate so far; null: none yet.")
    stop: Stop | None = Field(
        description="Why the search has ended: all generations or `max_evaluations` are used up, "
        "`patience` generations brought hardly a gain, or nothing new is within the budget. null: it "
        "has not."
    )
    training: TrainingProgress | None = Field(
        description="Of the stages adapt and finetune; null in every other one."
    )
    postponed: Postponed | None = Field(
        None, description="How often the measurement was put off for a quieter device; null: never."
    )


class Weights(ApiObject):
    """Weights that a job made."""

    sha256: str = Field(description="Of the file.", examples=[SHA256])
    source: Literal["adapted", "finetuned"] = Field(description="What the job did.")


class Settled(ApiObject):
    """What the request left open, and what it asked for, as the inspection filled it in."""

    task: str = Field(description="What the model does.", examples=["semantic_segmentation"])
    input: dict[str, Any] = Field(description="As in the request.", examples=[INPUT])
    preprocess: dict[str, Any] = Field(
        description="As in the request, with `resize`: the input's (height, width).",
        examples=[PREPROCESS],
    )
    score: str = Field(description="Window score.", examples=["variance"])
    splits: dict[str, int] = Field(
        description="Images the search scores on, and those kept for the report.",
        examples=[{"search": 400, "report": 100}],
    )
    metric: str = Field(description="Name of the metric.", examples=["miou"])
    dense_metric: dict[str, Any] | None = Field(
        description="What the dense model reached where `expected_dense_metric` was given.",
        examples=[DENSE_METRIC],
    )
    adapt: dict[str, Any] | None = Field(
        description="Every setting of the adaptation, or null.", examples=[TRAINING]
    )
    finetune: dict[str, Any] | None = Field(
        description="Every setting of the fine-tuning, or null.", examples=[TRAINING]
    )


class JobSummary(ApiObject):
    """A search job, as lists show it."""

    id: str = Field(description="The job's id.", examples=[JOB_ID])
    object: Literal["search_job"] = Field(description="What this is.")
    status: JobStatus = Field(
        description="Where it stands. Nothing changes after succeeded, failed or cancelled."
    )
    dry_run: bool = Field(
        description="Whether it is a dry run's: it ends once its latency map stands.",
        examples=[False],
    )
    stage: Stage | None = Field(description="What a running job is busy with.")
    version: int = Field(
        description="Rises with every change; the ETag is made of it.", examples=[9]
    )
    created_at: datetime = Field(description="When it was submitted.", examples=[CREATED])
    started_at: datetime | None = Field(description="When a worker took it up.", examples=[CREATED])
    cancel_requested_at: datetime | None = Field(
        description="When its end was asked for.", examples=[ENDED]
    )
    finished_at: datetime | None = Field(description="When it ended.", examples=[ENDED])
    estimated_finish_at: datetime | None = Field(
        description="When it is likely to end; null: not known.", examples=[ENDED]
    )
    progress: Progress = Field(description="How far it is.")
    request: SearchRequest = Field(description="The request with every default filled in.")
    device: str | None = Field(
        description="Device model the job runs on; null: not known yet.",
        examples=["NVIDIA H100 80GB HBM3"],
    )
    checkpoint_sha256: str | None = Field(
        description="Of the weights as submitted; null: not inspected yet.", examples=[SHA256]
    )
    dataset_sha256: str | None = Field(
        description="Of the annotations and the list of files (path, size, mtime) of the splits "
        "that are scored on; null: not inspected yet.",
        examples=[SHA256],
    )
    error: JobError | None = Field(description="Why it failed; null: it did not.")
    verdicts: list[str] = Field(
        description="What the user should know.", examples=[["HEAD_DOMINATES"]]
    )
    metadata: dict[str, str] = Field(
        description="As in the request.", examples=[{"ticket": "ML-71"}]
    )
    links: dict[str, str] = Field(
        description="Where its parts are.", examples=[{"self": f"/jobs/{JOB_ID}"}]
    )


class ResolutionObject(ApiObject):
    """One of several inputs of a job."""

    input: dict[str, Any] = Field(description="As settled by the inspection.", examples=[INPUT])
    latency: LatencyObject | None = Field(
        description="What its latency map answers; null: not known yet."
    )
    reachable: bool | None = Field(
        description="Whether a config is predicted to meet the budget. Where none is, nothing is "
        "searched, and the job has the verdict RESOLUTION_UNREACHABLE. null: not known yet.",
        examples=[True],
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

    object: Literal["list"] = Field(description="What this is.")
    data: list[JobSummary] = Field(description="The jobs.")
    has_more: bool = Field(description="Whether a page follows.", examples=[True])
    next_cursor: str | None = Field(
        description="Pass it as `after` for the next page.", examples=[JOB_ID]
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
