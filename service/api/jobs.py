"""GET /jobs, GET /jobs/{id}, GET /jobs/{id}/candidates, POST /jobs/{id}/cancel."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.routing import APIRoute
from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import Caller, SentKey, key_sent, known
from service.api.candidate_objects import CANDIDATE_ID, CandidateList, candidate_object
from service.api.context import Context, context, only_query
from service.api.described import (
    ETAG,
    JOB_ID,
    RETRY_AFTER,
    UNCHANGED,
    JobId,
    conditional,
    problems,
)
from service.api.objects import JobList, JobObject, job_summary
from service.api.plain import listing
from service.api.responses import job_response, json_response
from service.db.polls import Poll
from service.domain.errors import JobAlreadyTerminal, JobNotFound
from service.domain.keys import key_digest
from service.domain.records import evaluation_id, is_job_id
from service.domain.status import JobStatus
from service.jobs import owned

router = APIRouter(tags=["jobs"])

Parts = Annotated[Context, Depends(context)]


def _digits(value: object) -> object:
    """Refuses what Python besides takes for an integer, such as 1_0 and 5.0."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value) is None:
        raise ValueError("give a whole number, in digits")
    return value


Limit = Annotated[
    int,
    Field(ge=1, le=100),
    BeforeValidator(_digits),
    Query(description="Entries per page.", examples=[50]),
]


def _cursor(of: str, example: str) -> Any:
    """Where a page begins."""
    return Query(
        max_length=128,
        description="`next_cursor` of the page before.",
        examples=[example],
        json_schema_extra={"format": f"{of}-cursor"},
    )


JOB_HEADERS = ETAG | RETRY_AFTER


@router.get(
    "/jobs",
    response_model=JobList,
    responses={200: {"description": "A page of your jobs."}, **problems()},
    dependencies=[Depends(only_query("limit", "after", "status"))],
    summary="List your jobs",
)
def list_jobs(
    owner: Caller,
    parts: Parts,
    limit: Limit = 20,
    after: Annotated[str | None, _cursor("job", JOB_ID)] = None,
    status: Annotated[
        JobStatus | None, Query(description="Only jobs in this state.", examples=["running"])
    ] = None,
) -> Response:
    """Your jobs, newest first."""
    page = parts.jobs.page(owner, limit, after, status)
    cursor = page.items[-1].id if page.items else None
    return json_response(listing([job_summary(job) for job in page.items], page.has_more, cursor))


async def get_job(request: Request, key: SentKey, parts: Parts, job_id: JobId) -> Response:
    """A job as it stands. Until it is terminal, Retry-After says when to ask again."""
    # Every client polls this: key and job are looked up together, and with those of other polls.
    polled = await parts.polls.ask(Poll(key_digest(key), job_id if is_job_id(job_id) else None))
    known(polled.owner)
    return job_response(request, owned(polled.job))


class _Polled(APIRoute):
    """The route of `get_job`, whose dependencies it calls itself: to have FastAPI find out each time
    what they are takes longer than to call them. They still describe the route."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:
        """What answers a request."""

        async def answer(request: Request) -> Response:
            await _no_query(request)
            key, parts = await key_sent(request, None), await context(request)
            return await get_job(request, key, parts, request.path_params["job_id"])

        return answer


_no_query = only_query()
router.add_api_route(
    "/jobs/{job_id}",
    get_job,
    methods=["GET"],
    response_model=JobObject,
    responses={
        200: {"description": "The job.", "headers": JOB_HEADERS},
        **UNCHANGED,
        **problems(JobNotFound),
    },
    dependencies=[Depends(conditional), Depends(_no_query)],
    summary="Get a job",
    route_class_override=_Polled,
)


@router.get(
    "/jobs/{job_id}/candidates",
    response_model=CandidateList,
    responses={200: {"description": "The candidates."}, **problems(JobNotFound)},
    dependencies=[Depends(only_query("limit", "after"))],
    summary="List a job's candidates",
)
def list_candidates(
    owner: Caller,
    parts: Parts,
    job_id: JobId,
    limit: Limit = 20,
    after: Annotated[str | None, _cursor("candidate", CANDIDATE_ID)] = None,
) -> Response:
    """Every candidate the search proposed, in order of proposal."""
    page = parts.jobs.candidates(owner, job_id, limit, after)
    cursor = evaluation_id(page.items[-1].id) if page.items else None
    job = parts.jobs.shown(owner, job_id)
    data = [candidate_object(evaluation, job) for evaluation in page.items]
    return json_response(listing(data, page.has_more, cursor))


@router.post(
    "/jobs/{job_id}/cancel",
    response_model=JobObject,
    responses={
        200: {"description": "The job, which is cancelled.", "headers": ETAG},
        202: {
            "model": JobObject,
            "description": "The job, which is being cancelled: poll it.",
            "headers": JOB_HEADERS,
        },
        **problems(JobNotFound, JobAlreadyTerminal),
    },
    dependencies=[Depends(only_query())],
    summary="Cancel a job",
)
def cancel_job(request: Request, owner: Caller, parts: Parts, job_id: JobId) -> Response:
    """Ends a job: 200 where it is cancelled now, 202 where workers are being told."""
    job = parts.jobs.cancel(owner, job_id)
    return job_response(request, job, 202 if job.status is JobStatus.CANCELLING else 200)
