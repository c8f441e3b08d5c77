"""Latencies of the rows of a comparison, all in turns on one device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparsevit.latency.measurement import Measurement
from sparsevit.search.deployed import Place, Progress, deployed_latency

RUNS_IN_TIME = 8
"""So many runs fit into a session's time for a measurement; more get more of it."""


def timed(
    places: Sequence[Place],
    seconds: float,
    quiet_ms: Mapping[str, float],
    progress: Progress | None = None,
) -> dict[str, list[Measurement]]:
    """Measurements of every place by scope, beside the first one; see `deployed_latency`."""
    time = seconds * math.ceil(len(places) / RUNS_IN_TIME)
    tell = progress or (lambda done, total: None)
    return deployed_latency(places, places[0], time, quiet_ms, tell)
