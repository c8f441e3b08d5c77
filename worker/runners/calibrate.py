"""calibrate: time the block pairs of a network on this device, which gives its latency map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsevit.search.steps import Session


def run(
    session: Session, payload: Mapping[str, Any], report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Payload {} -> {"map": LatencyMap as JSON, "receipt": {...}}."""
    return session.calibrate(report)
