"""The receipt of a latency: everything needed to believe the number, as one JSON document."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sparsevit
from sparsevit.errors import DeviceError
from sparsevit.latency.allocator import allocator
from sparsevit.latency.digest import canonical_digest
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.nvml import gpu_settings, gpu_state

SCHEMA_VERSION = 2
GIT_VERSION = "SPARSEVIT_GIT_VERSION"
CPU_INFO = Path("/proc/cpuinfo")
MACHINE_IDS = (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id"))


def receipt(
    device: torch.device | str,
    input: Mapping[str, Any],
    measurement: Measurement,
    executed_windows: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """The receipt of `measurement`, taken just now on `device`: JSON.

    input: height, width, batch, precision, mode, threads. executed_windows: windows computed by
    each block, stage by stage, counted while the model ran. `id` is taken from the content.
    Raises DeviceError for a device that is not here.
    """
    facts = device_facts(device)
    document = {
        "schema_version": SCHEMA_VERSION,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": facts,
        "state": gpu_state(facts["uuid"]) if facts["kind"] == "cuda" else None,
        "host": host_facts(),
        "versions": library_versions(),
        "input": dict(input),
        "latency_ms": measurement.to_dict(),
        "executed_windows": [list(stage) for stage in executed_windows],
    }
    return {"id": f"receipt_{canonical_digest(document)[:20]}", **document}


def device_facts(device: torch.device | str) -> dict[str, Any]:
    """What a device is: kind (cpu or cuda), model, uuid, driver, power_limit_w.

    The model names what latencies depend on, the uuid the one device of that model: GPU-... as
    NVML has it, or CPU-... from the machine's id. Raises DeviceError for a device not here.
    """
    device = torch.device(device)
    if device.type == "cpu":
        nothing = {"driver": None, "power_limit_w": None}
        return {"kind": "cpu", "model": cpu_model(), "uuid": _machine_uuid(), **nothing}
    if device.type != "cuda" or not torch.cuda.is_available():
        raise DeviceError(f"there is no device {str(device)!r} here; use cpu, or cuda with a GPU.")
    if (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"there is no {device}: this machine has {torch.cuda.device_count()}.")
    properties = torch.cuda.get_device_properties(device)
    uuid = f"GPU-{properties.uuid}"
    return {"kind": "cuda", "model": properties.name, "uuid": uuid, **gpu_settings(uuid)}


def cpu_model(cpu_info: Path = CPU_INFO) -> str:
    """The processor's model name; the architecture where the system does not say."""
    values = _cpu_info(cpu_info, "model name")
    return values[0] if values else platform.machine() or "unknown CPU"


def host_facts() -> dict[str, Any]:
    """The machine around the device: processor, cores, their clocks, how it hands out memory.
    What else ran on it is part of the measurement (`load`)."""
    clocks = [float(value) for value in _cpu_info(CPU_INFO, "cpu MHz")]
    return {
        "cpu_model": cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_clock_mhz": round(float(np.mean(clocks)), 1) if clocks else None,
        "allocator": allocator(),
        "system": f"{platform.system()} {platform.release()}",
    }


def library_versions() -> dict[str, Any]:
    """Versions that a latency depends on; cuda and cudnn are None without a GPU build."""
    return {
        "sparsevit": sparsevit.__version__,
        "git": git_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.version.cuda else None,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@cache
def git_version() -> str | None:
    """The commit of the library's source tree, "-dirty" where files are changed; of an image the one
    it was built from (SPARSEVIT_GIT_VERSION). None where neither is known, as in a wheel."""
    folder = Path(sparsevit.__file__).parents[1]
    if not (folder / ".git").exists():
        return os.environ.get(GIT_VERSION) or None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(GIT_VERSION) or None
    return found.stdout.strip() or None


def _cpu_info(path: Path, name: str) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    pairs = [line.partition(":") for line in lines]
    return [value.strip() for key, _, value in pairs if key.strip() == name]


def _machine_uuid(sources: Sequence[Path] = MACHINE_IDS) -> str:
    """CPU-... from the machine's id, hashed (the id itself is not to be published). Containers
    often have none; the boot id then is at least the same for all containers of the host."""
    texts = [path.read_text().strip() for path in sources if path.is_file()]
    identity = next((text for text in texts if text), platform.node())
    return f"CPU-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
