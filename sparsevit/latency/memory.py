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


# torch has no class for it on a CPU: its allocator says so in words, oneDNN only that it failed.
CPU_ERRORS = ("DefaultCPUAllocator", "could not create a primitive", "could not create a memory")


_most_resident: int | None = None


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


def limit_memory(free: int | None = None) -> bool:
    """Limits this process to the memory that is available now, or to `free` more bytes. False where
    the system does not say how much that is."""
    global _most_resident
    used = _kilobytes(PROCESS_STATUS, "VmRSS")
    free = available_bytes() if free is None else free
    if used is None or free is None:
        return False
    _most_resident = int(used * 1024 + free * (1 - RESERVE))
    renew_limit()
    return True


def renew_limit() -> None:
    """The limit anew, after memory was released: the system counts what is mapped, and of that much
    may be free in a process that keeps its memory."""
    if _most_resident is None:
        return
    mapped, used = (_kilobytes(PROCESS_STATUS, name) or 0 for name in ("VmData", "VmRSS"))
    limit = mapped * 1024 + max(0, _most_resident - used * 1024)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


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
    return any(words in str(error) for words in CPU_ERRORS)


def _kilobytes(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
