"""The JSON of workers, of devices, and of the latency maps that stand for these."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.api.latency_objects import Accuracy, MapInput, Scopes
from service.api.plain import ApiObject, timestamp
from service.domain.records import Device, Json, MapFigures, Worker
from service.domain.status import WorkerState


class LatencyMapObject(ApiObject):
    """A latency map: what every block pair costs at every sparsity, measured once."""

    key: str = Field(description="Digest of all that it depends on.")
    object: Literal["latency_map"]
    input: MapInput
    score: str = Field(description="Window score.", examples=["variance"])
    created_at: datetime
    disturbed: bool = Field(description="Whether the device was busy with something else.")
    stale: bool = Field(
        description="Whether the device's workers have other versions of torch, driver or library "
        "now: searches then measure anew."
    )
    accuracy: Accuracy | None
    scopes: Scopes


class WorkerObject(ApiObject):
    """A worker."""

    id: str
    object: Literal["worker"]
    online: bool
    state: WorkerState
    device: str
    device_uuid: str
    device_kind: Literal["cpu", "cuda"]
    host: str
    versions: dict[str, Any]
    unit: int | None = Field(description="The unit it holds.")
    started_at: datetime
    seen_at: datetime


class DeviceObject(ApiObject):
    """A device model that some worker has reported at some time."""

    name: str = Field(description="What `device` of a search request takes.")
    object: Literal["device"]
    kind: Literal["cpu", "cuda"]
    workers_online: int
    latency_maps: list[LatencyMapObject] = Field(
        description="Latency maps that stand, oldest first: a search with the same input, score "
        "and network reuses them."
    )


class WorkerList(ApiObject):
    """Every worker, last started first."""

    object: Literal["list"]
    data: list[WorkerObject]


class DeviceList(ApiObject):
    """Every device model."""

    object: Literal["list"]
    data: list[DeviceObject]


def latency_map_object(figures: MapFigures, stale: bool) -> Json:
    """A LatencyMapObject of a map with a summary."""
    assert figures.summary is not None
    return {
        "key": figures.key,
        "object": "latency_map",
        **{name: figures.summary[name] for name in ("input", "score", "disturbed", "accuracy")},
        "created_at": timestamp(figures.created_at),
        "stale": stale,
        "scopes": figures.summary["scopes"],
    }


def worker_object(worker: Worker) -> Json:
    """A WorkerObject."""
    return {
        "id": worker.id,
        "object": "worker",
        "online": worker.online,
        "state": worker.state,
        "device": worker.device,
        "device_uuid": worker.device_uuid,
        "device_kind": worker.device_kind,
        "host": worker.host,
        "versions": worker.versions,
        "unit": worker.unit_id,
        "started_at": timestamp(worker.started_at),
        "seen_at": timestamp(worker.seen_at),
    }


def device_object(device: Device, latency_maps: Sequence[Json]) -> Json:
    """A DeviceObject; latency_maps: its LatencyMapObjects."""
    return {
        "name": device.name,
        "object": "device",
        "kind": device.kind,
        "workers_online": device.workers_online,
        "latency_maps": list(latency_maps),
    }
