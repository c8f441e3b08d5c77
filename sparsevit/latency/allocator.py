"""How the process gets its memory from the system: on a CPU a part of every latency.

glibc gives large buffers back to the system as soon as they are freed, and takes them anew, page by
page, at the next call. Whether it does so depends on what else happens to lie on the heap, so one
and the same forward can take half as long again for no reason of its own. `keep_memory` makes it
keep what it has: faster, and the same every time. Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

# mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST = 2**31 - 1
OTHERS = ("jemalloc", "tcmalloc", "mimalloc")
MAPPINGS = Path("/proc/self/maps")
DEFAULT, KEPT = "system default", "glibc, memory kept"


@cache
def keep_memory() -> bool:
    """Makes this process keep freed memory for its next forward; once, for the whole process.

    Call it before timing or serving a model on a CPU: latencies of this library are measured so. The
    peak of memory stays what it was, but it is not given back in between. False where nothing was
    changed: another allocator is preloaded (these keep memory by themselves), or there is no glibc.
    """
    if preloaded() is not None or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, LARGEST))


def release_memory() -> None:
    """Gives what is no longer used back to the system once, also where memory is kept."""
    gc.collect()
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def allocator() -> str:
    """What hands out memory in this process, as receipts state it."""
    asked = keep_memory.cache_info().currsize > 0
    return preloaded() or (KEPT if asked and keep_memory() else DEFAULT)


def preloaded(mappings: Path = MAPPINGS) -> str | None:
    """The name of an allocator that stands in for the system's (LD_PRELOAD), or None."""
    try:
        text = mappings.read_text(errors="replace")
    except OSError:
        return None
    return next((name for name in OTHERS if f"lib{name}" in text), None)
