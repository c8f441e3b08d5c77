"""Running out of memory: as an error of the library, before the system kills the process.

A GPU says so by itself. On a CPU the kernel hands out more memory than there is and kills whoever
uses it, so `limit_memory` sets the process a limit, from which on allocations fail.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sparsevit.errors import DeviceOutOfMemory

MEMORY_INFO = Path("/proc/meminfo")
PROCESS_STATUS = Path("/proc/self/status")
CGROUP = Path("/sys/fs/cgroup")
RESERVE = 0.1
"""Share of the available memory that is left to others."""
STEPS = 4
UNIT = 32
"""Sizes are tried in multiples of this many pixels."""


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns what torch and Python raise when memory is out into DeviceOutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_about_memory(error):
            raise
        raise DeviceOutOfMemory(
            "the device ran out of memory; use a smaller input or batch."
        ) from error


def limit_memory() -> int | None:
    """Limits this process to the memory that is available now; the limit in bytes, None where the
    system does not say what is available."""
    used, free = _kilobytes(PROCESS_STATUS, "VmData"), available_bytes()
    if used is None or free is None:
        return None
    limit = int(used * 1024 + free * (1 - RESERVE))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return limit


def available_bytes() -> int | None:
    """Memory this process can still get: the machine's, or its container's where that is less."""
    free = _kilobytes(MEMORY_INFO, "MemAvailable")
    if free is None:
        return None
    left = [free * 1024]
    try:
        limit = int((CGROUP / "memory.max").read_text())
        left.append(max(0, limit - int((CGROUP / "memory.current").read_text())))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return min(left)


def largest_size(
    fits: Callable[[int, int], bool], height: int, width: int
) -> tuple[int, int] | None:
    """The largest size of the same shape as height x width pixels, below it, that fits; to a
    sixteenth. None where not even the smallest tried one does."""
    low, high = 0.0, 1.0
    best = None
    for _ in range(STEPS):
        scale = (low + high) / 2
        size = tuple(max(UNIT, round(side * scale / UNIT) * UNIT) for side in (height, width))
        if fits(*size):
            low, best = scale, size
        else:
            high = scale
    return best


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch has no class for it on a CPU.
    return "DefaultCPUAllocator" in str(error)


def _kilobytes(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
