"""The real device process on a clock of its own: the CPU time of its thread, which nothing else that
runs on this machine makes longer. What it measures is real, but takes no quiet moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparsevit.latency import meter
from sparsevit.latency.memory import limit_memory
from tests.oracles import import_torchvision
from worker.device import serve
from worker.runners import SessionWork

if TYPE_CHECKING:
    from sparsevit.search.steps import Session

OPTIONS = dict(option.split("=") for option in sys.argv[1:])


class ClockedWork(SessionWork):
    """Measures for a few seconds only. On the command line: FAKE_MEASURE_SECONDS=N, how many, and
    FAKE_MEMORY_MB=N, with so much memory."""

    def hello(self) -> dict[str, Any]:
        said = super().hello()
        if "FAKE_MEMORY_MB" in OPTIONS:
            limit_memory(int(OPTIONS["FAKE_MEMORY_MB"]) * 2**20)
        return said

    def _open(self, arguments: Mapping[str, Any]) -> Session:
        session = super()._open(arguments)
        session.measure_seconds = float(OPTIONS.get("FAKE_MEASURE_SECONDS", 3))
        return session


if __name__ == "__main__":
    import_torchvision()  # before transformers
    for timed in (meter.measure, meter.measure_many):
        timed.__kwdefaults__["clock"] = time.thread_time_ns
    sys.exit(serve(ClockedWork("cpu")))
