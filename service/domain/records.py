"""What repositories hand out: frozen copies of database rows, safe after the session is closed.

Field names are column names. JSON columns come as plain dicts and lists; times are aware.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from service.domain.status import (
    EvaluationState,
    Inspection,
    JobStatus,
    Stage,
    UnitKind,
    UnitState,
    WorkerState,
)

Json = dict[str, Any]
DeviceKind = Literal["cpu", "cuda"]

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
# At most 18 digits: every such number fits the column.
_EVALUATION_ID = re.compile(r"eval_([1-9][0-9]{0,17})", re.ASCII)
_JOB_ID = re.compile(r"job_[0-9a-f]{32}", re.ASCII)


def new_job_id() -> str:
    """A fresh job id: 'job_' and 32 hex digits, millisecond time first (the layout of UUIDv7)."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"job_{value:032x}"


def is_job_id(text: str) -> bool:
    """Whether a string has the form of a job id."""
    return _JOB_ID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a string could be an id of ours: 1 to 128 plain characters."""
    return _NAME.fullmatch(text) is not None


def evaluation_id(number: int) -> str:
    """The public id of an evaluation."""
    return f"eval_{number}"


def evaluation_number(text: str) -> int | None:
    """The number in an evaluation's public id; None where it is none."""
    match = _EVALUATION_ID.fullmatch(text)
    return None if match is None else int(match[1])


@dataclass(frozen=True, slots=True)
class Job:
    """A user's search, or a dry run: one that ends once its latency map stands.

    `request` is the filled-in request, `fingerprint` a digest of the part of it that latencies
    depend on, `latency` what the map answers for the job's space, `result` the best config document,
    `weights` {"sha256", "source"} of the last weights it made (None: it runs on the checkpoint).
    `resolutions`: of a job with several inputs, {"input", "latency_map_key", "latency", "reachable",
    "planned", "stop"} of each; the columns of the same name are then those of the first one.
    `request_id` is that of the POST which it comes from.
    """

    id: str
    owner: str
    status: JobStatus
    stage: Stage | None
    version: int
    dry_run: bool
    request_id: str | None
    request: Json
    fingerprint: str | None
    checkpoint_file: Json | None
    dataset_file: Json | None
    device: str | None
    inspection: Json | None
    latency_map_key: str | None
    latency: Json | None
    resolutions: list[Json] | None
    checkpoint_sha256: str | None
    dataset_sha256: str | None
    weights: Json | None
    progress: Json
    verdicts: list[str]
    error: Json | None
    result: Json | None
    front: list[Json] | None
    artefacts: dict[str, str]
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    cancel_requested_at: datetime | None
    finished_at: datetime | None
    estimated_finish_at: datetime | None


@dataclass(frozen=True, slots=True)
class DryRun:
    """What is known before a search: `job` has the figures, measures them, or failed to."""

    request: Json
    inspection: Inspection
    job: Job


@dataclass(frozen=True, slots=True)
class Unit:
    """One leased piece of a job's work. `resolution`: the place of the input it is for among the
    job's. `part` numbers the pieces of a shard that was taken apart;
    -1: all of it.

    `attempt` is the fencing token: it grows with every claim, and a write that names an older one
    is refused. `failures` counts the attempts that were lost or failed; `postponed` those that were put
    off until `not_before`, as their device was never quiet. `device` is the device model the unit
    needs (None: any); `device_uuid` the very device that holds it. `request_id` is its job's; who
    claims it is told.
    """

    id: int
    job_id: str
    kind: UnitKind
    resolution: int
    generation: int
    shard: int
    part: int
    payload: Json
    state: UnitState
    attempt: int
    failures: int
    postponed: int
    not_before: datetime | None
    lease_until: datetime | None
    worker_id: str | None
    device: str | None
    device_uuid: str | None
    result: Json | None
    error: Json | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One candidate of a job, at one of its inputs: `resolution` is its place. `latency_ms` is the
    map's prediction; `position` its place in the order of proposal within the generation; `error`
    {"code", "message"} why it failed. `rival_id`: the evaluation it races against (None:
    it does not race). `images`: how many `metric` is taken on."""

    id: int
    job_id: str
    config_key: str
    resolution: int
    generation: int
    position: int
    genes: list[int]
    state: EvaluationState
    metric: float | None
    metric_interval: list[float] | None
    images: int | None
    latency_ms: float
    rival_id: int | None
    error: Json | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate to be evaluated: its key (kept counts as JSON), genes, predicted latency, and the
    id of the evaluation it races against."""

    config_key: str
    genes: list[int]
    latency_ms: float
    rival_id: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How an evaluation ended: done, dropped or failed; fields as of Evaluation. folds: metric
    states on parts of the images (JSON), where later candidates may race against it."""

    evaluation_id: int
    state: EvaluationState
    metric: float | None = None
    images: int | None = None
    metric_interval: Sequence[float] | None = None
    folds: Any = None
    error: Json | None = None

    @classmethod
    def done(cls, evaluation_id: int, metric: float, images: int, folds: Any = None) -> Ending:
        """Scored on all images."""
        state = EvaluationState.DONE
        return cls(evaluation_id, state, metric, images, folds=folds)

    @classmethod
    def dropped(
        cls, evaluation_id: int, metric: float, interval: Sequence[float], images: int
    ) -> Ending:
        """With its metric on so many images, and an interval of that on all."""
        return cls(evaluation_id, EvaluationState.DROPPED, metric, images, [*interval])

    @classmethod
    def failed(cls, evaluation_id: int, error: Json) -> Ending:
        """It cannot be evaluated, and why."""
        return cls(evaluation_id, EvaluationState.FAILED, error=error)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as it last reported itself. `online`: it was seen lately and did not say goodbye."""

    id: str
    device: str
    device_uuid: str
    device_kind: DeviceKind
    host: str
    versions: Json
    state: WorkerState
    unit_id: int | None
    started_at: datetime
    seen_at: datetime
    online: bool


@dataclass(frozen=True, slots=True)
class Device:
    """A device model some worker has reported at some time."""

    name: str
    kind: DeviceKind
    workers_online: int


@dataclass(frozen=True, slots=True)
class LatencyMapRecord:
    """A latency map: `document` is the library's own form of it, for workers; `summary` what it
    answers for the space of all levels, None where that is too large to count."""

    key: str
    device: str
    document: Json
    summary: Json | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class MapFigures:
    """What a latency map answers before a search, and what it was made with.

    `facts` are the map's own: device, versions, input. `age` is by the database's clock.
    """

    key: str
    device: str
    facts: Json
    summary: Json | None
    created_at: datetime
    age: timedelta


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key's record; the key itself is known to its holder alone. `admin`: it opens what is
    about every owner's jobs together."""

    id: str
    owner: str
    sha256: str
    name: str
    admin: bool
    created_at: datetime
    revoked_at: datetime | None
