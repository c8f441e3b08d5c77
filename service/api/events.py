"""GET /jobs/{id}/events: what changes about a job, as Server-Sent Events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from starlette.responses import Response, StreamingResponse

from service.api.auth import Caller
from service.api.context import Context, context, only_query
from service.api.described import JobId, problems
from service.api.plain import timestamp
from service.api.streams import EventHub
from service.domain.errors import JobNotFound, TooManyStreams
from service.domain.events import JobEvent

HEARTBEAT_SECONDS = 15.0
"""A stream is never silent for longer, so that both ends notice when the other one is gone."""

LIFETIME_SECONDS = 600.0
"""Then a stream ends, and its client resumes: with a key that was revoked it cannot."""

RETRY_MILLISECONDS = 2000
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
EXAMPLE = """\
retry: 2000

id: 4711
event: progress
data: {"created_at": "2026-01-02T03:04:05.678901+00:00", "version": 9, "progress": {"done": 100, \
"failed": 0, "total": 3000, "generation": 0, "best": {"metric": 0.81, "latency_ms": 9.7}, \
"training": null}, "estimated_finish_at": null}
"""

router = APIRouter(tags=["jobs"])


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
            "description": "The events.",
        },
        204: {"description": "The job has ended, and you have seen its last event."},
        **problems(JobNotFound, TooManyStreams),
    },
    dependencies=[Depends(only_query())],
    summary="Watch a job",
)
def get_events(
    owner: Caller,
    parts: Annotated[Context, Depends(context)],
    job_id: JobId,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            pattern=r"^[0-9]{1,18}$",
            description="`id` of the last event you have seen: go on after it.",
            examples=["4711"],
        ),
    ] = None,
) -> Response:
    """Every change of a job from its beginning on, or from `Last-Event-ID` on, until it has ended.

    `event` is `status`, `stage`, `progress` (a generation), `training` or `verdicts`, and `data`
    holds the job's fields that changed. Only the last `training` and the last `progress` of each
    generation are kept. The stream ends after ten minutes at the latest: connect again with
    `Last-Event-ID`, as browsers do by themselves.
    """
    parts.events.check_room(owner)
    seen = int(last_event_id or 0)
    job, past = parts.jobs.events(owner, job_id, seen)
    if job.status.terminal and not past:
        # Tells a browser not to connect again.
        return Response(status_code=204)
    seen = past[-1].id if past else seen
    stream = _stream(parts.events, owner, job.id, past, seen)
    return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


async def _stream(
    hub: EventHub, owner: str, job_id: str, past: Sequence[JobEvent], seen: int
) -> AsyncIterator[str]:
    """The lines of a stream; what is asked of the database, the hub asks in a thread."""
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    for event in past:
        yield event_text(event)
        if event.last:
            return
    now = asyncio.get_running_loop().time
    end = now() + LIFETIME_SECONDS
    async with hub.listen(owner, job_id, seen) as queue:
        while (left := end - now()) > 0:
            try:
                event = await asyncio.wait_for(queue.get(), min(HEARTBEAT_SECONDS, left))
            except TimeoutError:
                yield ": the job goes on\n\n"
                continue
            if event.id <= seen:
                continue
            seen = event.id
            yield event_text(event)
            if event.last:
                return


def event_text(event: JobEvent) -> str:
    """An event as it stands in a stream. JSON has no line feeds of its own."""
    data = json.dumps({"created_at": timestamp(event.created_at), **event.data})
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n"
