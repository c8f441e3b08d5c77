"""POST /search: a checked request becomes a queued job, or with `dry_run` an answer at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.auth import Caller
from service.api.body import read_json
from service.api.context import Context, context, only_query
from service.api.latency_objects import DryRunObject, dry_run_object
from service.api.objects import JobObject
from service.api.openapi import search_request_body
from service.api.responses import POLL_SECONDS, job_response, problems
from service.domain.request import parse_search_request
from service.domain.status import Inspection

router = APIRouter(tags=["search"])


# The key is asked for before the body is read: strangers' bodies stay unread.
async def _body(_owner: Caller, request: Request) -> Any:
    return await read_json(request)


@router.post(
    "/search",
    status_code=202,
    response_model=JobObject,
    responses={
        200: {"model": DryRunObject, "description": "what a dry run found; no search is started"},
        **problems(400, 413, 415, 429),
    },
    openapi_extra={"requestBody": search_request_body()},
    dependencies=[Depends(only_query("dry_run"))],
    summary="Start a search",
)
def post_search(
    request: Request,
    owner: Caller,
    body: Annotated[Any, Depends(_body)],
    parts: Annotated[Context, Depends(context)],
    dry_run: Annotated[
        Literal["true", "false"],
        Query(
            description="`true`: start no search, say what the budget leaves.", examples=["true"]
        ),
    ] = "false",
) -> Response:
    """Finds the best sparsity configuration of a checkpoint within a latency budget.

    Checkpoint, data set and budget are enough; the answer shows the defaults filled in. The job is
    stored when the answer arrives; poll it at `Location`. A budget that is known to be out of
    reach is refused with BUDGET_UNREACHABLE; where nothing is known yet, the job fails with it.

    With `dry_run=true` no search is started. The answer tells dense latency, reachable range, share
    of the configs within the budget and nearest possible budget, where these are known; else
    `inspection` is `pending`, they are being measured, and the same request is asked again later.
    """
    checked = parse_search_request(body)
    if dry_run == "true":
        found = parts.submissions.dry_run(owner, checked)
        pending = found.inspection is Inspection.PENDING
        headers = {"Retry-After": str(POLL_SECONDS)} if pending else {}
        return JSONResponse(dry_run_object(found), 200, headers)
    job = parts.submissions.submit(owner, checked)
    return job_response(request, job, 202, {"Location": f"/jobs/{job.id}"})
