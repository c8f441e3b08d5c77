"""evaluate: score a generation's candidates on one shard of the search images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsevit.search.steps import Session


def run(
    session: Session, payload: Mapping[str, Any], report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Payload {"candidates", "shard", "shards"} -> {"states", "seconds"}, in the same order."""
    candidates = [tuple(genes) for genes in payload["candidates"]]
    return session.evaluate(candidates, payload["shard"], payload["shards"], report)
