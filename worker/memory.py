"""How much of the host's memory the device process may hold.

`sparsevit.latency.memory` lets allocations fail inside the process, as far as it can. This is the
view from outside, for what asks nobody: a decoder in C, a file that unpacks to more than it claims.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PROC = Path("/proc")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
SHARE = 0.8
"""Of the machine's memory, or its container's, where no limit is given."""


def device_memory_limit(megabytes: float | None) -> int:
    """DEVICE_MEMORY_MB in bytes; where it is None, SHARE of what the machine or container has."""
    if megabytes is not None:
        return int(megabytes * 2**20)
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        has = min(has, int(CGROUP_LIMIT.read_text()))
    return int(SHARE * has)


def held_bytes(pid: int) -> int:
    """What a process keeps in memory and cannot be taken from it: pages of files that it only reads
    do not count. 0 of a process that is gone."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    kept = ("RssAnon:", "RssShmem:")
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(kept))
