"""Statements on training checkpoints: which slices' files are still needed.

Files are named by what they hold, so two equal jobs share theirs. One is removed only while no
other live job would go on from it, and both sides hold the file's name meanwhile: the one that
removes it, and the one that is about to refer to it.
"""

from __future__ import annotations

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.orm import Session

from service.domain.status import TERMINAL, TRAINING_KINDS, JobStatus

_LIVE = [status for status in JobStatus if status not in TERMINAL]
_OF_JOB = text(
    """
    SELECT DISTINCT result->>'checkpoint' FROM units
    WHERE job_id = :job_id AND kind = ANY(:kinds) AND result->>'checkpoint' IS NOT NULL
    """
).bindparams(bindparam("kinds", list(TRAINING_KINDS)))
_NEEDED = text(
    """
    SELECT EXISTS (
        SELECT 1 FROM jobs CROSS JOIN LATERAL (
            SELECT result->>'checkpoint' AS checkpoint FROM units
            WHERE units.job_id = jobs.id AND units.kind = ANY(:kinds) AND result IS NOT NULL
            ORDER BY units.id DESC LIMIT 1
        ) AS latest
        WHERE jobs.status = ANY(:live) AND jobs.id <> :job_id AND latest.checkpoint = :digest
    )
    """
).bindparams(bindparam("kinds", list(TRAINING_KINDS)), bindparam("live", _LIVE))


class CheckpointRepository:
    """Training checkpoints within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def hold(self, digest: str) -> None:
        """Keeps every other transaction from taking up, or removing, this file until it ends."""
        self._session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(digest, 0))))

    def of_job(self, job_id: str) -> set[str]:
        """The SHA-256 of every checkpoint that a slice of the job ended with."""
        return set(self._session.scalars(_OF_JOB, {"job_id": job_id}))

    def is_needed(self, digest: str, but_job: str) -> bool:
        """Whether a live job other than `but_job` would go on from this checkpoint."""
        return bool(self._session.scalar(_NEEDED, {"digest": digest, "job_id": but_job}))
