"""What a job has found: its best config and weights, Pareto front, plots and receipts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import Caller
from service.api.context import Context, context, only_query
from service.api.described import DOWNLOAD, ETAG, UNCHANGED, JobId, conditional, problems
from service.api.receipt_objects import ReceiptObject
from service.api.responses import document_response, file_response, pretty
from service.api.result_objects import RECEIPT_ID, ConfigObject, FrontObject
from service.db.artefacts import WEIGHTS_SUFFIX
from service.domain.errors import (
    JobNotFound,
    NoFeasibleConfig,
    NoWeights,
    PlotNotFound,
    ReceiptNotFound,
    ResultNotReady,
    WeightsNotFound,
)
from service.domain.partial import partial_config
from service.domain.records import Job, Json
from service.domain.status import JobStatus

router = APIRouter(prefix="/jobs/{job_id}", tags=["results"])

Parts = Annotated[Context, Depends(context)]
BINARY = {"schema": {"type": "string", "format": "binary"}}
CSV_EXAMPLE = """\
genes,metric,latency_predicted,measured,winner\r
"[0, 3, 3, 5, 6]",0.781,25.3,True,True\r
"""
PLOT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": BINARY}, "description": "The plot.", "headers": ETAG},
    **UNCHANGED,
    **problems(JobNotFound, PlotNotFound, ResultNotReady, NoFeasibleConfig),
}


@router.get(
    "/config",
    response_model=ConfigObject,
    responses={
        200: {"description": "The best config JSON, as a download.", "headers": DOWNLOAD},
        **UNCHANGED,
        **problems(JobNotFound, ResultNotReady, NoFeasibleConfig),
    },
    dependencies=[Depends(conditional), Depends(only_query("partial"))],
    summary="Download the best config",
)
def get_config(
    request: Request,
    owner: Caller,
    parts: Parts,
    job_id: JobId,
    partial: Annotated[
        Literal["true", "false"],
        Query(
            description="`true`: the best so far, where the job has no result (yet).",
            examples=["true"],
        ),
    ] = "false",
) -> Response:
    """What you deploy: `sparsevit.load_config` reads it. 409 until the job has succeeded.

    With `partial=true` that of the best candidate so far, whose latency is predicted, not measured:
    `partial` is true in it, and there is no receipt.
    """
    job = parts.jobs.get(owner, job_id)
    document = job.result
    if document is None and partial == "true":
        best = parts.jobs.best_candidate(job)
        document = None if best is None else partial_config(job, best)
    if document is None:
        raise _no_result(job)
    return document_response(request, pretty(document), "application/json", f"{job.id}.json")


@router.get(
    "/weights",
    response_class=Response,
    responses={
        200: {
            "content": {"application/octet-stream": BINARY},
            "description": "The weights as safetensors, as a download.",
            "headers": DOWNLOAD,
        },
        **UNCHANGED,
        **problems(JobNotFound, WeightsNotFound, ResultNotReady, NoFeasibleConfig, NoWeights),
    },
    dependencies=[Depends(conditional), Depends(only_query())],
    summary="Download the weights",
)
def get_weights(request: Request, owner: Caller, parts: Parts, job_id: JobId) -> Response:
    """The weights that the best config was measured with, where the job made them by adaptation or
    fine-tuning; `sparsevit.load_model` reads them. 409 NO_WEIGHTS where the config belongs to the
    checkpoint as it was submitted.
    """
    job = parts.jobs.get(owner, job_id)
    if job.result is None:
        raise _no_result(job)
    weights = job.result["weights"]
    if weights["source"] == "checkpoint":
        raise NoWeights(
            "the job trained nothing: its config was measured with the checkpoint of its request, "
            f"SHA-256 {weights['sha256']}; deploy that file"
        )
    path = parts.artefacts.path(weights["sha256"], WEIGHTS_SUFFIX)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise WeightsNotFound("the weights left the artefact folder") from None
    name = f"{job.id}{WEIGHTS_SUFFIX}"
    return file_response(request, file, weights["sha256"], "application/octet-stream", name)


@router.get(
    "/pareto",
    response_model=FrontObject,
    responses={
        200: {
            "content": {
                "text/csv": {"schema": {"type": "string"}, "example": CSV_EXAMPLE},
                "image/png": BINARY,
            },
            "description": "The front.",
            "headers": ETAG,
        },
        **UNCHANGED,
        **problems(JobNotFound, PlotNotFound, ResultNotReady, NoFeasibleConfig),
    },
    dependencies=[Depends(conditional), Depends(only_query("format"))],
    summary="Get the Pareto front",
)
def get_pareto(
    request: Request,
    owner: Caller,
    parts: Parts,
    job_id: JobId,
    format: Annotated[
        Literal["json", "csv", "png"], Query(description="Its form.", examples=["csv"])
    ] = "json",
) -> Response:
    """Configs that no other one beats in both metric and latency, of all that were evaluated.

    The metric is the search split's. A latency is predicted by the latency map; each point says
    whether it was measured too. A job that failed with NO_FEASIBLE_CONFIG has a front, without a
    winner.
    """
    job = parts.jobs.get(owner, job_id)
    if format == "png":
        return _plot(request, parts, job, "pareto.png")
    if job.front is None:
        raise _no_result(job)
    if format == "csv":
        name = f"{job.id}-pareto.csv"
        return document_response(request, front_csv(job.front), "text/csv; charset=utf-8", name)
    front = {"object": "pareto_front", "job_id": job.id, "data": job.front}
    return document_response(request, pretty(front), "application/json")


@router.get(
    "/windows.png",
    response_class=Response,
    responses=PLOT,
    dependencies=[Depends(conditional), Depends(only_query())],
    summary="Get the window map",
)
def get_windows(request: Request, owner: Caller, parts: Parts, job_id: JobId) -> Response:
    """Images of your data, each window coloured by the number of layers that computed it."""
    return _plot(request, parts, parts.jobs.get(owner, job_id), "windows.png")


@router.get(
    "/latency.png",
    response_class=Response,
    responses=PLOT,
    dependencies=[Depends(conditional), Depends(only_query())],
    summary="Get the latency map's residuals",
)
def get_latency(request: Request, owner: Caller, parts: Parts, job_id: JobId) -> Response:
    """What the latency map predicted for whole models over what they took."""
    return _plot(request, parts, parts.jobs.get(owner, job_id), "latency.png")


@router.get(
    "/receipts/{receipt_id}",
    response_model=ReceiptObject,
    responses={
        200: {"description": "The receipt.", "headers": ETAG},
        **UNCHANGED,
        **problems(JobNotFound, ReceiptNotFound),
    },
    dependencies=[Depends(conditional), Depends(only_query())],
    summary="Get a latency receipt",
)
def get_receipt(
    request: Request,
    owner: Caller,
    parts: Parts,
    job_id: JobId,
    receipt_id: Annotated[
        str,
        Path(
            description="A receipt's id, of front or config.",
            examples=[RECEIPT_ID],
            json_schema_extra={"format": "receipt-id"},
        ),
    ],
) -> Response:
    """Everything needed to believe one of the job's latencies."""
    document = parts.jobs.receipt(owner, job_id, receipt_id)
    return document_response(request, pretty(document), "application/json")


def front_csv(front: Sequence[Json]) -> bytes:
    """A front as CSV: nested names joined by dots, lists as JSON."""
    rows = [_flat(point) for point in front]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _flat(point: Json, prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in point.items():
        if isinstance(value, dict):
            row |= _flat(value, f"{prefix}{key}.")
        else:
            row[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return row


def _plot(request: Request, parts: Context, job: Job, name: str) -> Response:
    digest = job.artefacts.get(name)
    if digest is None and job.status is not JobStatus.SUCCEEDED:
        raise _no_result(job)
    content = None if digest is None else parts.artefacts.get(digest)
    if content is None:
        raise PlotNotFound("the job has no such plot, or its file left the artefact folder")
    return document_response(request, content, "image/png")


def _no_result(job: Job) -> ResultNotReady | NoFeasibleConfig:
    """Why there is nothing to hand out."""
    if job.error is not None and job.error["code"] == NoFeasibleConfig.code:
        return NoFeasibleConfig(
            "no measured configuration is within the budget: submit again with a larger one"
        )
    if job.dry_run:
        return ResultNotReady("a dry run has no result: submit the search itself")
    if job.status.terminal:
        return ResultNotReady(f"the job has {job.status} without a result; see its error")
    return ResultNotReady("the job is not done: poll it until it has succeeded")
