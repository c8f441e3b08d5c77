"""Building blocks of answers: JSON, ETags, polling hints."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.api.objects import job_object
from service.domain.records import Job, Json

POLL_SECONDS = 2
"""What Retry-After tells a client that waits for a job."""

PIECE_BYTES = 1 << 20


def job_response(request: Request, job: Job, status: int = 200) -> Response:
    """A job with its ETag and, until it is terminal, a Retry-After; 304 where nothing changed."""
    headers = job_headers(job.id, job.version, job.status.terminal)
    if request.method == "GET" and matches(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return json_response(job_object(job), status, headers)


def job_headers(job_id: str, version: int, terminal: bool) -> dict[str, str]:
    """What stands above a job object."""
    # The version counts every change, and the id tells a job from any other at the same address.
    headers = {"ETag": f'"{job_id}-{version}"', "Cache-Control": "private, no-cache"}
    return headers if terminal else {**headers, "Retry-After": str(POLL_SECONDS)}


def json_response(
    content: Json, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON object, written by the faster of two writers at hand: jobs are polled, and listed."""
    return Response(to_json(content), status, headers, "application/json")


def document_response(
    request: Request, body: bytes, media_type: str, filename: str | None = None
) -> Response:
    """Finished content with a strong ETag, as a download where a file name is given."""
    tag = f'"{hashlib.sha256(body).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if filename is not None:
        headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    if matches(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, media_type)


def file_response(
    request: Request, file: BinaryIO, sha256: str, media_type: str, filename: str
) -> Response:
    """A finished file, read piece by piece as it is sent, under the strong ETag of its SHA-256.

    It is open already: removing it now takes nothing from this answer. Ranges are ignored.
    """
    headers = {
        "ETag": f'"{sha256}"',
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{filename}"',
    }
    if matches(request, headers["ETag"]):
        file.close()
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(os.fstat(file.fileno()).st_size)
    return StreamingResponse(_pieces(file), 200, headers, media_type)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def matches(request: Request, tag: str) -> bool:
    """Whether If-None-Match names `tag` (RFC 9110: weak comparison, a list, or *)."""
    given = [item.strip() for item in request.headers.get("if-none-match", "").split(",")]
    return "*" in given or tag in (item.removeprefix("W/") for item in given)


def pretty(document: Json) -> bytes:
    """A document as a file a person may open: indented by 2, ending in a line feed."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
