"""GET /workers, GET /devices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from service.api.auth import caller
from service.api.context import Context, context, only_query
from service.api.described import problems
from service.api.device_objects import (
    DeviceList,
    WorkerList,
    device_object,
    latency_map_object,
    worker_object,
)
from service.api.plain import listing
from service.db.latency_maps import LatencyMapRepository
from service.db.session import session_scope
from service.db.workers import WorkerRepository
from service.domain.latency import is_stale

router = APIRouter(tags=["workers"], dependencies=[Depends(caller), Depends(only_query())])

Parts = Annotated[Context, Depends(context)]


@router.get(
    "/workers",
    response_model=WorkerList,
    responses={200: {"description": "Every worker."}, **problems()},
    summary="List workers",
)
def list_workers(parts: Parts) -> Response:
    """Workers, their devices and what they hold; `online` says who was seen lately."""
    with session_scope(parts.engine) as session:
        workers = WorkerRepository(session).all()
    return JSONResponse(listing([worker_object(worker) for worker in workers]))


@router.get(
    "/devices",
    response_model=DeviceList,
    responses={200: {"description": "Every device model."}, **problems()},
    summary="List devices",
)
def list_devices(parts: Parts) -> Response:
    """Device models a search may name, and the latency maps that stand for each."""
    with session_scope(parts.engine) as session:
        devices = WorkerRepository(session).devices()
        workers = WorkerRepository(session).all()
        maps = LatencyMapRepository(session).standing()
    data = []
    for device in devices:
        its = [worker for worker in workers if worker.device == device.name]
        found = [
            latency_map_object(figures, is_stale(figures.facts, its))
            for figures in maps
            if figures.device == device.name
        ]
        data.append(device_object(device, found))
    return JSONResponse(listing(data))
