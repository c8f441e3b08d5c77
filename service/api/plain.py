"""What all answers share.

Plain functions make the JSON (job objects are polled, and validating our own rows again would cost
more than the query); the models describe it in /openapi.json, and a test holds the two together.

plain              lists, errors, times
objects            jobs
candidate_objects  their candidates
result_objects     best configs and fronts, as they were stored
receipt_objects    latency receipts, as they were stored
latency_objects    what a latency map answers before a search; dry runs
device_objects     workers, devices and their latency maps
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from service.domain.records import Json


class ApiObject(BaseModel):
    """What an answer holds, and nothing else."""

    model_config = ConfigDict(extra="forbid")


class JobError(ApiObject):
    """Why a job, a candidate or a dry run failed."""

    code: str = Field(
        description="Stable; what programs should look at.", examples=["CHECKPOINT_MISMATCH"]
    )
    message: str = Field(
        description="What is wrong and what to do.",
        examples=["the checkpoint changed after the job was submitted: submit it again"],
    )
    pointer: str | None = Field(
        None, description="Field of the request it is about.", examples=["/checkpoint"]
    )


def listing(
    data: Sequence[Json], has_more: bool | None = None, next_cursor: str | None = None
) -> Json:
    """A list object; `has_more` is None for lists that come in one piece."""
    whole: Json = {"object": "list", "data": list(data)}
    if has_more is None:
        return whole
    return {**whole, "has_more": has_more, "next_cursor": next_cursor if has_more else None}


def timestamp(moment: datetime | None) -> str | None:
    """A time as RFC 3339 in UTC, with microseconds."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")
