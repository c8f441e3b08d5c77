"""What the device process is asked: a unit, and the arguments of the session that it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTLED_BY_INSPECTION = ("input", "preprocess", "score", "task", "evaluation_threads")
Files = Mapping[str, Mapping[str, Any] | None]
"""{"checkpoint": record, "dataset": record} of POST; a null record is built in."""


def session_arguments(
    request: Mapping[str, Any], files: Files, inspection: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Arguments of `sparsevit.search.steps.Session`, less the device, plus "files" and "inspected".

    The paths are those that POST resolved and found under the roots, never the request's own: a
    link in these may lead elsewhere by now. What the request leaves open is settled by the
    inspection once and for all: from then on every worker, whatever its own defaults, computes
    the same thing. "inspected" holds the hashes of what was inspected; null before.
    """
    settled = inspection if inspection is not None else request
    dataset = request["dataset"]
    return {
        "checkpoint": _resolved(request["checkpoint"], files["checkpoint"]),
        "dataset": {**dataset, "path": _resolved(dataset["path"], files["dataset"])},
        **{name: settled.get(name) for name in SETTLED_BY_INSPECTION},
        "files": dict(files),
        "inspected": None if inspection is None else _hashes(inspection),
    }


def _resolved(named: str, record: Mapping[str, Any] | None) -> str:
    """The recorded path; what has no record is a built-in name."""
    return named if record is None else record["path"]


def _hashes(inspection: Mapping[str, Any]) -> dict[str, str]:
    return {name: inspection[f"{name}_sha256"] for name in ("checkpoint", "dataset")}
