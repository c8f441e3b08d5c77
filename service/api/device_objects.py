"""The JSON of workers, of devices, and of the latency maps that stand for these."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.api.latency_objects import Accuracy, MapInput, Scopes
from service.api.plain import ApiObject, timestamp
from service.domain.records import Device, DeviceKind, Json, MapFigures, Worker
from service.domain.status import WorkerState

DEVICE = "NVIDIA H100 80GB HBM3"
MOMENT = "2026-01-02T03:04:05.678901+00:00"


class LatencyMapObject(ApiObject):
    """A latency map: what every block pair costs at every sparsity, measured once."""

    key: str = Field(description="Digest of all that it depends on.", examples=["c93f2c90f136b81f"])
    object: Literal["latency_map"] = Field(description="What this is.")
    input: MapInput = Field(description="What it was measured with.")
    score: str = Field(description="Window score.", examples=["variance"])
    created_at: datetime = Field(description="When it was measured.", examples=[MOMENT])
    disturbed: bool = Field(
        description="Whether the device was busy with something else.", examples=[False]
    )
    stale: bool = Field(
        description="Whether the device's workers have other versions of torch, driver or library "
        "now: searches then measure anew.",
        examples=[False],
    )
    accuracy: Accuracy | None = Field(
        description="How well it predicts; null: nothing was checked against it."
    )
    scopes: Scopes = Field(description="What configs take, by latency scope.")


class WorkerObject(ApiObject):
    """A worker."""

    id: str = Field(description="Its name.", examples=["gpu-7-cuda0-4711"])
    object: Literal["worker"] = Field(description="What this is.")
    online: bool = Field(description="Whether it was heard of lately.", examples=[True])
    state: WorkerState = Field(
        description="What it said last; one that was killed keeps its last word."
    )
    device: str = Field(description="Device model.", examples=[DEVICE])
    device_uuid: str = Field(
        description="Its one device.", examples=["GPU-6b1c1f5e-9a37-4a4b-8a5a-0d7f5b0f3c11"]
    )
    device_kind: DeviceKind = Field(description="What that is.")
    host: str = Field(description="The machine's name.", examples=["gpu-7"])
    versions: dict[str, Any] = Field(
        description="Of what a latency depends on.",
        examples=[{"torch": "2.13.0", "sparsevit": "0.1.0", "driver": "570.86.15"}],
    )
    unit: int | None = Field(description="The unit it holds; null: none.", examples=[4711])
    started_at: datetime = Field(description="When it was started.", examples=[MOMENT])
    seen_at: datetime = Field(description="When it was last heard of.", examples=[MOMENT])


class DeviceObject(ApiObject):
    """A device model that some worker has reported at some time."""

    name: str = Field(description="What `device` of a search request takes.", examples=[DEVICE])
    object: Literal["device"] = Field(description="What this is.")
    kind: DeviceKind = Field(description="Its kind.")
    workers_online: int = Field(description="Workers that have one and are online.", examples=[2])
    latency_maps: list[LatencyMapObject] = Field(
        description="Latency maps that stand, oldest first: a search with the same input, score "
        "and network reuses them."
    )


class WorkerList(ApiObject):
    """Every worker, last started first."""

    object: Literal["list"] = Field(description="What this is.")
    data: list[WorkerObject] = Field(description="The workers.")


class DeviceList(ApiObject):
    """Every device model."""

    object: Literal["list"] = Field(description="What this is.")
    data: list[DeviceObject] = Field(description="The devices.")


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
