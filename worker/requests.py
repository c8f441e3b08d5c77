"""What the device process is asked: a unit, and the arguments of the session that it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTLED_BY_INSPECTION = ("input", "preprocess", "score", "task")


def session_arguments(
    request: Mapping[str, Any],
    files: Mapping[str, Any],
    inspection: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Arguments of `sparsevit.search.steps.Session`, less the device, plus the recorded files.

    What the request leaves open is settled by the inspection once and for all: from then on every
    worker, whatever its own defaults, computes the same thing.
    """
    settled = inspection if inspection is not None else request
    return {
        "checkpoint": request["checkpoint"],
        "dataset": request["dataset"],
        **{name: settled.get(name) for name in SETTLED_BY_INSPECTION},
        "files": dict(files),
    }
