"""States of jobs, units, evaluations and workers, and which job may become which.

queued ──> running ──> succeeded
  │ │        │ └─────> failed
  │ └──────> cancelling ──> cancelled
  └───────────────────────> cancelled | failed
"""

from __future__ import annotations

from enum import StrEnum


class JobStatus(StrEnum):
    """Where a job stands. The last three are terminal: nothing about the job changes after them."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """True where the job has ended for good."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset(
        {JobStatus.RUNNING, JobStatus.CANCELLING, JobStatus.CANCELLED, JobStatus.FAILED}
    ),
    JobStatus.RUNNING: frozenset({JobStatus.CANCELLING, JobStatus.SUCCEEDED, JobStatus.FAILED}),
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

TERMINAL: frozenset[JobStatus] = frozenset(status for status in JobStatus if status.terminal)


def sources(target: JobStatus) -> frozenset[JobStatus]:
    """The states a job may be in to become `target`; an UPDATE's WHERE names exactly these."""
    return frozenset(status for status, targets in TRANSITIONS.items() if target in targets)


class Stage(StrEnum):
    """What a running job is busy with."""

    INSPECT = "inspect"
    CALIBRATE = "calibrate"
    ADAPT = "adapt"
    SEARCH = "search"
    VERIFY = "verify"
    FINETUNE = "finetune"


TRAINING_STAGES: frozenset[Stage] = frozenset({Stage.ADAPT, Stage.FINETUNE})


class Inspection(StrEnum):
    """How far a dry run's answer is."""

    READY = "ready"
    PENDING = "pending"
    FAILED = "failed"


class UnitKind(StrEnum):
    """Kinds of leased work."""

    INSPECT = "inspect"
    CALIBRATE = "calibrate"
    ADAPT = "adapt"
    EVALUATE = "evaluate"
    PROBE = "probe"
    MEASURE = "measure"
    FINETUNE = "finetune"


TRAINING_KINDS: frozenset[UnitKind] = frozenset({UnitKind.ADAPT, UnitKind.FINETUNE})
"""Slices of a training: the shard is the slice's number, each begins where the last one ended."""

QUIET_KINDS: frozenset[UnitKind] = frozenset({UnitKind.CALIBRATE, UnitKind.MEASURE})
"""Units that time something: they run alone on their device."""


SPLIT_KINDS: frozenset[UnitKind] = frozenset({UnitKind.EVALUATE, UnitKind.PROBE})
"""Units whose failures are not their job's end: what they do is taken apart until it is known which
candidate or which image fails. A probe looks for the image."""


class UnitState(StrEnum):
    """Where a unit stands. `leased` carries an attempt number; the last four never change. `broken`:
    failed too often, and of a kind that is taken apart then."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    BROKEN = "broken"
    CANCELLED = "cancelled"


class EvaluationState(StrEnum):
    """Where the evaluation of one candidate stands. `dropped`: on some of the images it was so far
    behind a parent that the others were not evaluated."""

    PENDING = "pending"
    DONE = "done"
    DROPPED = "dropped"
    FAILED = "failed"


class WorkerState(StrEnum):
    """What a worker said last. A worker that was killed keeps its last word: look at `seen_at`."""

    IDLE = "idle"
    BUSY = "busy"
    STOPPED = "stopped"


MAX_ATTEMPTS = 3
"""A unit that was lost or failed this often has failed for good."""

SHARD_ATTEMPTS = 2
"""And the evaluation of a whole shard, whose parts are then tried by themselves, after so many."""
