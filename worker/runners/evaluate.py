"""evaluate: score a generation's candidates on one shard of the search images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sparsevit import metrics

if TYPE_CHECKING:
    from sparsevit.search.steps import Session


def run(
    session: Session, payload: Mapping[str, Any], report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Payload {"candidates", "shard", "shards"} -> {"states", "seconds"}, in the same order; the folds
    of a candidate are packed (sparsevit.metrics.packed)."""
    candidates = [tuple(genes) for genes in payload["candidates"]]
    found = session.evaluate(candidates, payload["shard"], payload["shards"], report)
    return {
        **found,
        "states": [metrics.packed(one, session.model.metric) for one in found["states"]],
    }
