"""The JSON of a job's candidates; see `service.api.plain` on how it is made."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.api.latency_objects import Ms
from service.api.objects import ENDED
from service.api.plain import ApiObject, JobError, timestamp
from service.api.result_objects import INPUT
from service.domain.records import Evaluation, Job, Json, evaluation_id
from service.domain.status import EvaluationState

CANDIDATE_ID = "eval_4711"


class CandidateObject(ApiObject):
    """One evaluated (or dropped, failed, pending) candidate."""

    id: str = Field(description="The candidate's id.", examples=[CANDIDATE_ID])
    object: Literal["candidate"] = Field(description="What this is.")
    input: dict[str, Any] | None = Field(
        description="The input it is for; null unless the job has several.", examples=[INPUT]
    )
    generation: int = Field(description="Generation it belongs to, from 0.", examples=[6])
    position: int = Field(
        description="Order of proposal within the generation, from 0.", examples=[41]
    )
    genes: list[int] = Field(
        description="Sparsity level (tenths dropped) of each block pair.",
        examples=[[0, 3, 3, 5, 6]],
    )
    state: EvaluationState = Field(
        description="Where it stands; `dropped`: so far behind its rival that the rest of the images "
        "was left out."
    )
    metric: float | None = Field(
        description="On the first `images` images of the search split, in their fixed random order; "
        "null: not known yet.",
        examples=[0.781],
    )
    metric_interval: list[float] | None = Field(
        description="Of a dropped candidate: where its metric on all of them would lie, with 95% "
        "confidence. null: it is known.",
        examples=[[0.701, 0.752]],
    )
    images: int | None = Field(
        description="Images it was evaluated on; null until it has ended.", examples=[4000]
    )
    rival: str | None = Field(
        description="The candidate it races against, the best parent that is predicted no slower. "
        "null: it is evaluated to the end.",
        examples=["eval_4607"],
    )
    predicted_latency_ms: Ms = Field(
        description="By the latency map, not measured.", examples=[25.3]
    )
    error: JobError | None = Field(description="Of a failed candidate: why.")
    finished_at: datetime | None = Field(description="When it ended.", examples=[ENDED])


class CandidateList(ApiObject):
    """A page of candidates, in order of proposal."""

    object: Literal["list"] = Field(description="What this is.")
    data: list[CandidateObject] = Field(description="The candidates.")
    has_more: bool = Field(description="Whether a page follows.", examples=[True])
    next_cursor: str | None = Field(
        description="Pass it as `after` for the next page.", examples=[CANDIDATE_ID]
    )


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
