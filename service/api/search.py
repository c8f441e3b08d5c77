"""POST /search: a checked request becomes a queued job."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import Caller
from service.api.body import read_json
from service.api.context import Context, context, only_query
from service.api.objects import JobObject
from service.api.openapi import search_request_body
from service.api.responses import job_response, problems
from service.domain.request import parse_search_request

router = APIRouter(tags=["search"])


# The key is asked for before the body is read: strangers' bodies stay unread.
async def _body(_owner: Caller, request: Request) -> Any:
    return await read_json(request)


@router.post(
    "/search",
    status_code=202,
    response_model=JobObject,
    responses=problems(400, 413, 415),
    openapi_extra={"requestBody": search_request_body()},
    dependencies=[Depends(only_query())],
    summary="Start a search",
)
def post_search(
    request: Request,
    owner: Caller,
    body: Annotated[Any, Depends(_body)],
    parts: Annotated[Context, Depends(context)],
) -> Response:
    """Finds the best sparsity configuration of a checkpoint within a latency budget.

    Checkpoint, data set and budget are enough; the answer shows the defaults filled in. The job is
    stored when the answer arrives; poll it at `Location`.
    """
    job = parts.jobs.submit(owner, parse_search_request(body))
    return job_response(request, job, 202, {"Location": f"/jobs/{job.id}"})
