"""What a step of the coordinator decides: plain, frozen data, applied in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.domain.records import Ending, Proposal
from service.domain.status import JobStatus, Stage, UnitKind


@dataclass(frozen=True)
class NewUnit:
    """A unit to add; it runs on the job's device model, or on any where that is open."""

    kind: UnitKind
    payload: Mapping[str, Any]
    generation: int = -1
    shard: int = -1
    part: int = -1
    resolution: int = 0


@dataclass(frozen=True)
class Generation:
    """A generation to add: its candidates in the order of their proposal."""

    number: int
    proposals: tuple[Proposal, ...]
    resolution: int = 0


@dataclass(frozen=True)
class End:
    """The job's terminal status and what it leaves."""

    status: JobStatus
    error: Mapping[str, Any] | None = None
    document: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Decision:
    """One transition: what changes in the job's row, and which rows are added. None: unchanged."""

    stage: Stage | None = None
    inspection: Mapping[str, Any] | None = None
    device: str | None = None
    latency_map: Mapping[str, Any] | None = None
    map_summary: Mapping[str, Any] | None = None
    latency_map_key: str | None = None
    latency: Mapping[str, Any] | None = None
    resolutions: Sequence[Mapping[str, Any]] | None = None
    receipts: Mapping[str, Mapping[str, Any]] | None = None
    weights: Mapping[str, str] | None = None
    front: Sequence[Mapping[str, Any]] | None = None
    artefacts: Mapping[str, str] | None = None
    units: tuple[NewUnit, ...] = ()
    generation: Generation | None = None
    endings: tuple[Ending, ...] = ()
    verdicts: tuple[str, ...] = ()
    progress: Mapping[str, Any] | None = None
    estimated_finish_at: datetime | None = None
    end: End | None = None


WAIT = Decision()
"""Nothing to do until another unit ends."""
