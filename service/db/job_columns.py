"""What is read of a job's row: which of its columns, and the record they make; jobs that go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.db.models import JobRow, table_of
from service.domain.records import Job
from service.domain.status import JobStatus, Stage

JOBS = table_of(JobRow)
ACTIVE = frozenset({JobStatus.QUEUED, JobStatus.RUNNING})
"""The states of a job that goes on."""

_OUTCOME = ("result", "front")
"""Columns of many kilobytes that only those read who ask for what was found."""

_DETAILS = ("inspection", "latency", "resolutions", "weights")
"""What lists of jobs leave out as well."""

LISTED = [column for column in JOBS.c if column.name not in _OUTCOME + _DETAILS]
SHOWN = [column for column in JOBS.c if column.name not in _OUTCOME]


def job_of(columns: Mapping[str, Any]) -> Job:
    """The record of a row; what was not read of it is None."""
    fields = dict.fromkeys(_OUTCOME + _DETAILS) | dict(columns)
    fields["status"] = JobStatus(fields["status"])
    fields["stage"] = None if fields["stage"] is None else Stage(fields["stage"])
    return Job(**fields)
