"""A latency receipt, as workers stored it: everything needed to believe one number."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from service.api.latency_objects import Ms
from service.api.result_objects import INPUT, RECEIPT_ID, WINDOWS, Interval, StoredObject
from service.domain.records import DeviceKind

DEVICE = {
    "kind": "cuda",
    "model": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-6b1c1f5e-9a37-4a4b-8a5a-0d7f5b0f3c11",
    "driver": "570.86.15",
    "power_limit_w": 700.0,
}
STATE = {
    "sm_clock_mhz": 1980,
    "sm_clock_max_mhz": 1980,
    "memory_clock_mhz": 2619,
    "temperature_c": 41,
    "power_w": 310.4,
    "throttle_reasons": [],
    "utilisation_percent": 97,
    "other_processes": [],
}
HOST = {
    "cpu_model": "AMD EPYC 9354",
    "cpu_cores": 32,
    "cpu_clock_mhz": 3249.9,
    "allocator": "system default",
    "system": "Linux 6.8.0",
}
VERSIONS = {
    "sparsevit": "0.1.0",
    "git": "472cdf7de8fd",
    "torch": "2.13.0",
    "cuda": "12.8",
    "cudnn": 91002,
    "numpy": "2.4.6",
    "python": "3.12.3",
}
LOAD = {"foreign_cores": 0.02, "steal": 0.0, "load_average": [1.2, 1.1, 0.9], "waited": 0.001}


class ReceiptDevice(StoredObject):
    """The device that was measured."""

    kind: DeviceKind = Field(description="What it is.")
    model: str = Field(description="Device model.", examples=[DEVICE["model"]])
    uuid: str | None = Field(
        None,
        description="The one device: as NVML has it, or made of the machine's id.",
        examples=[DEVICE["uuid"]],
    )
    driver: str | None = Field(description="The GPU's driver.", examples=[DEVICE["driver"]])
    power_limit_w: float | None = Field(
        description="What a GPU may draw, in watts.", examples=[DEVICE["power_limit_w"]]
    )


class ReceiptLatency(StoredObject):
    """The measurement. Milliseconds, but for shares and ratios."""

    p50: Ms = Field(description="Median.", examples=[25.1])
    p90: Ms = Field(description="90th percentile.", examples=[25.9])
    p99: Ms = Field(description="99th percentile.", examples=[27.0])
    interval: Interval = Field(
        description="99% interval of the median, longer by the noise floor, and reaching down to the "
        "known latency where the reference was above that.",
        examples=[[24.9, 25.4]],
    )
    samples: int = Field(description="Forward passes timed.", examples=[640])
    converged: bool = Field(
        description="Whether the interval became as narrow as asked for.", examples=[True]
    )
    noise_floor: float = Field(
        description="How far apart two measurements of one thing come out, as a share.",
        examples=[0.004],
    )
    drift: float = Field(
        description="How far the reference moved meanwhile, as a share.", examples=[0.003]
    )
    disturbed: bool = Field(description="Whether it may win anything: not if so.", examples=[False])
    attempts: int = Field(description="Attempts at it.", examples=[1])
    threads: int = Field(description="CPU threads of torch.", examples=[1])
    set_aside: float = Field(
        description="Share of the samples that other work made useless.", examples=[0.01]
    )
    slower: float = Field(
        description="By what share the reference stayed above its known latency.", examples=[0.0]
    )
    load: dict[str, Any] = Field(
        description="What else ran: cores that other processes kept busy, the hypervisor's share, "
        "load averages, and how long this process stood in line for a core.",
        examples=[LOAD],
    )
    reference_p50: Ms | None = Field(
        description="Median of the reference, timed in between.", examples=[43.0]
    )
    reference_interval: Interval | None = Field(
        description="Its 99% interval, made alike.", examples=[[42.7, 43.3]]
    )
    ratio: float | None = Field(description="Run over reference, drift-corrected.", examples=[0.58])
    ratio_interval: Interval | None = Field(
        description="99% interval of that.", examples=[[0.577, 0.584]]
    )


class ReceiptObject(StoredObject):
    """A latency receipt."""

    id: str = Field(description="Made of the content.", examples=[RECEIPT_ID])
    schema_version: int = Field(description="Version of this form.", examples=[2])
    measured_at: str = Field(description="When.", examples=["2026-01-02T03:04:05+00:00"])
    device: ReceiptDevice = Field(description="The device.")
    state: dict[str, Any] | None = Field(
        description="Of a GPU just after the measurement: clocks (MHz), temperature (C), power (W), "
        "throttle reasons, utilisation, other processes. null on a CPU.",
        examples=[STATE],
    )
    host: dict[str, Any] = Field(description="The machine around it.", examples=[HOST])
    versions: dict[str, Any] = Field(
        description="Of what a latency depends on.", examples=[VERSIONS]
    )
    input: dict[str, Any] = Field(description="What was fed, and how.", examples=[INPUT])
    latency_ms: ReceiptLatency = Field(description="The measurement.")
    executed_windows: list[list[int]] = Field(
        description="Windows each block computed per image, counted while it ran.",
        examples=[WINDOWS],
    )
