"""POST /search: a checked request becomes a queued job, or with `dry_run` an answer at once."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.auth import Caller
from service.api.body import read_json
from service.api.context import Context, context, only_query
from service.api.described import ETAG, LOCATION, REPLAYED, RETRY_AFTER, problems
from service.api.latency_objects import DryRunObject, dry_run_object
from service.api.objects import JobObject, job_object
from service.api.openapi import search_request_body
from service.api.responses import POLL_SECONDS, job_headers
from service.domain.errors import (
    ArtifactNotFound,
    BodyTooLarge,
    BudgetUnreachable,
    IdempotencyKeyInFlight,
    IdempotencyKeyInvalid,
    IdempotencyKeyReused,
    MalformedJson,
    PathNotAllowed,
    TooManyJobs,
    UnsupportedMediaType,
    UrlNotAllowed,
)
from service.domain.request import parse_search_request
from service.domain.status import Inspection
from service.jobs import Once

KEY_PATTERN = r"^[\x21-\x7e]{1,255}$"

router = APIRouter(tags=["search"])


# The key is asked for before the body is read: strangers' bodies stay unread.
async def _body(_owner: Caller, request: Request) -> Any:
    return await read_json(request)


@router.post(
    "/search",
    status_code=202,
    response_model=JobObject,
    responses={
        202: {
            "description": "The job, which is stored.",
            "headers": ETAG | LOCATION | RETRY_AFTER | REPLAYED,
        },
        200: {
            "model": DryRunObject,
            "description": "What a dry run found; no search is started.",
            "headers": RETRY_AFTER,
        },
        **problems(
            MalformedJson,
            IdempotencyKeyInvalid,
            IdempotencyKeyInFlight,
            BodyTooLarge,
            UnsupportedMediaType,
            PathNotAllowed,
            UrlNotAllowed,
            ArtifactNotFound,
            BudgetUnreachable,
            IdempotencyKeyReused,
            TooManyJobs,
        ),
    },
    openapi_extra={"requestBody": search_request_body()},
    dependencies=[Depends(only_query("dry_run"))],
    summary="Start a search",
)
def post_search(
    owner: Caller,
    body: Annotated[Any, Depends(_body)],
    parts: Annotated[Context, Depends(context)],
    dry_run: Annotated[
        Literal["true", "false"],
        Query(
            description="`true`: start no search, say what the budget leaves.", examples=["true"]
        ),
    ] = "false",
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="Of your choice, new for each search: sent again with the same body, the "
            "search is not started twice, and the first answer comes again. Dry runs need none.",
            examples=["6f1a2d0c-9d7e-4a57-8d0b-2f6f3c1e9b55"],
            # Told, not enforced here: a bad key is answered 400 IDEMPOTENCY_KEY_INVALID.
            json_schema_extra={"pattern": KEY_PATTERN},
        ),
    ] = None,
) -> Response:
    """Finds the best sparsity configuration of a checkpoint within a latency budget.

    Checkpoint, data set and budget are enough; the answer shows the defaults filled in. The job is
    stored when the answer arrives; poll it at `Location`. A budget that is known to be out of
    reach is refused with BUDGET_UNREACHABLE; where nothing is known yet, the job fails with it.

    With `dry_run=true` no search is started. The answer tells dense latency, reachable range, share
    of the configs within the budget and nearest possible budget, where these are known; else
    `inspection` is `pending`, they are being measured, and the same request is asked again later.
    """
    key = None if idempotency_key is None else _checked_key(idempotency_key)
    checked = parse_search_request(body)
    if dry_run == "true":
        found = parts.submissions.dry_run(owner, checked)
        pending = found.inspection is Inspection.PENDING
        headers = {"Retry-After": str(POLL_SECONDS)} if pending else {}
        return JSONResponse(dry_run_object(found), 200, headers)
    if key is None:
        answer, repeated = job_object(parts.submissions.submit(owner, checked)), False
    else:
        once = Once(key, _digest(body), job_object)
        answer, repeated = parts.submissions.submit_once(owner, checked, once)
    headers = job_headers(answer["id"], answer["version"], terminal=False)
    headers["Location"] = f"/jobs/{answer['id']}"
    if repeated:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(answer, 202, headers)


def _checked_key(key: str) -> str:
    if re.fullmatch(KEY_PATTERN, key) is None:
        raise IdempotencyKeyInvalid(
            "an Idempotency-Key has 1 to 255 visible ASCII characters, such as a UUID"
        )
    return key


def _digest(body: Any) -> str:
    """SHA-256 of a body, whatever its spaces and the order of its fields."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
