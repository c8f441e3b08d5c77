"""GET /workers, GET /devices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from service.api.auth import caller
from service.api.context import Context, context, only_query
from service.api.objects import DeviceList, WorkerList, device_object, listing, worker_object
from service.api.responses import problems
from service.db.session import session_scope
from service.db.workers import WorkerRepository

router = APIRouter(tags=["workers"], dependencies=[Depends(caller), Depends(only_query())])

Parts = Annotated[Context, Depends(context)]


@router.get("/workers", response_model=WorkerList, responses=problems(), summary="List workers")
def list_workers(parts: Parts) -> Response:
    """Workers, their devices and what they hold; `online` says who was seen lately."""
    with session_scope(parts.engine) as session:
        workers = WorkerRepository(session).all()
    return JSONResponse(listing([worker_object(worker) for worker in workers]))


@router.get("/devices", response_model=DeviceList, responses=problems(), summary="List devices")
def list_devices(parts: Parts) -> Response:
    """Device models a search may name, and how many latency maps stand for each."""
    with session_scope(parts.engine) as session:
        devices = WorkerRepository(session).devices()
    return JSONResponse(listing([device_object(device) for device in devices]))
