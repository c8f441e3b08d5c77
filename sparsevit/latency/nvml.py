"""What NVML says about a GPU: driver, power, clocks, temperature, throttling, other processes.

nvidia-ml-py is optional, and much of NVML is refused on some GPUs and inside containers: whatever
cannot be asked is None, and a measurement never fails for it. Importable without torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Bits of nvmlDeviceGetCurrentClocksEventReasons (NVML API reference, "clocks event reasons").
THROTTLE_REASONS = {
    0x001: "idle",
    0x002: "application_clocks",
    0x004: "power_cap",
    0x008: "hardware_slowdown",
    0x010: "sync_boost",
    0x020: "thermal_software",
    0x040: "thermal_hardware",
    0x080: "power_brake",
    0x100: "display_clocks",
}


def gpu_settings(uuid: str) -> dict[str, Any]:
    """What stays put while a GPU is used: driver and power_limit_w (watts)."""
    with _opened(uuid) as (nvml, handle):
        if handle is None:
            return {"driver": None, "power_limit_w": None}
        return {
            "driver": _text(_asked(nvml, nvml.nvmlSystemGetDriverVersion)),
            "power_limit_w": _watts(_asked(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        }


def gpu_state(uuid: str) -> dict[str, Any] | None:
    """What changes while a GPU is used: clocks (MHz), temperature (C), power (W), throttle reasons,
    utilisation (%), other processes on it. None where NVML is not at hand."""
    with _opened(uuid) as (nvml, handle):
        if handle is None:
            return None

        def clock(read: Callable[..., int], kind: int) -> int | None:
            return _asked(nvml, read, handle, kind)

        rates = _asked(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
        return {
            "sm_clock_mhz": clock(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            "sm_clock_max_mhz": clock(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": clock(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            "temperature_c": _asked(
                nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
            ),
            "power_w": _watts(_asked(nvml, nvml.nvmlDeviceGetPowerUsage, handle)),
            "throttle_reasons": _reasons(
                _asked(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
            ),
            "utilisation_percent": None if rates is None else rates.gpu,
            "other_processes": _others(
                _asked(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle)
            ),
        }


@contextmanager
def _opened(uuid: str) -> Iterator[tuple[Any, Any]]:
    """(the module, a handle of the GPU), or (None, None)."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # no package, no driver library, no permission: all mean no NVML here
        yield None, None
        return
    try:
        yield nvml, _asked(nvml, nvml.nvmlDeviceGetHandleByUUID, uuid)
    finally:
        nvml.nvmlShutdown()


def _asked(nvml: Any, query: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return query(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _reasons(bits: int | None) -> list[str] | None:
    if bits is None:
        return None
    return [name for bit, name in THROTTLE_REASONS.items() if bits & bit]


def _others(processes: list[Any] | None) -> list[dict[str, Any]] | None:
    """Processes but this one. Inside a container NVML may count this one too, under the host's
    process id."""
    if processes is None:
        return None
    return [
        {"pid": p.pid, "memory_bytes": p.usedGpuMemory} for p in processes if p.pid != os.getpid()
    ]
