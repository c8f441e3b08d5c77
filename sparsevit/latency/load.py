"""What else runs on the machine while a latency is measured, as the Linux kernel counts it.

Three numbers tell foreign load apart from a slow model: how long this process's threads were ready
to run and found no core free (`waited`, from /proc/self/task/*/schedstat), how busy other processes
kept the cores, and how much the hypervisor took (`steal`, both from /proc/stat). Where the system
counts none of it, it is None. Importable without torch.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAT = Path("/proc/stat")
TASKS = Path("/proc/self/task")
TICKS = os.sysconf("SC_CLK_TCK")


def waited_ns() -> int:
    """Nanoseconds for which the threads of this process stood in line for a core, so far.

    0 where the kernel does not count them. A thread that ends takes its count along.
    """
    total = 0
    try:
        threads = os.listdir(TASKS)
    except OSError:
        return 0
    for thread in threads:
        try:
            total += int((TASKS / thread / "schedstat").read_text().split()[1])
        except (OSError, IndexError, ValueError):  # it has ended, or nothing is counted here
            continue
    return total


def no_wait() -> int:
    """For clocks of one's own: nothing ever waits."""
    return 0


@dataclass(frozen=True)
class _Moment:
    at: float
    own: float
    busy: float | None
    steal: float | None


class LoadWatch:
    """Watches the machine from its making on; `seen` says what it saw."""

    def __init__(self) -> None:
        self._start = _now()

    def seen(self) -> dict[str, Any]:
        """foreign_cores: cores that other processes kept busy on average. steal: share of the
        machine's time that the hypervisor gave to others. load_average: of the last minute."""
        start, end = self._start, _now()
        elapsed = max(end.at - start.at, 1e-9)
        found: dict[str, Any] = {"foreign_cores": None, "steal": None}
        if None not in (start.busy, end.busy, start.steal, end.steal):
            foreign = (end.busy - start.busy) - (end.own - start.own)
            found["foreign_cores"] = round(max(0.0, foreign / elapsed), 3)
            found["steal"] = round((end.steal - start.steal) / elapsed / (os.cpu_count() or 1), 4)
        return found | {"load_average": [round(load, 2) for load in os.getloadavg()]}


def _now() -> _Moment:
    own = os.times()
    busy, steal = _cores()
    return _Moment(time.monotonic(), own.user + own.system, busy, steal)


def _cores() -> tuple[float | None, float | None]:
    """Seconds that all cores together were busy, and that were stolen from them, since boot."""
    try:
        fields = STAT.read_text().split("\n", 1)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    except (OSError, ValueError):
        return None, None
    return (user + nice + system + irq + softirq) / TICKS, steal / TICKS
