"""measure: re-score the finalists, time them as deployed, and name the winner; or, after its
fine-tuning, measure the winner again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.db.artefacts import ArtefactStore
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.resolutions import merged

if TYPE_CHECKING:
    from sparsevit.search.steps import Session


def run(
    session: Session, payload: Mapping[str, Any], report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Payload of the coordinator, plus "latency_map" and "artifact_root". "found": what was found
    before the winner was fine-tuned. "before": of a search with several inputs, what was found at
    those before this one; null at the first.

    Returns {"document", "front", "receipts", "artefacts", "error"}; a search whose
    finalists are all too slow is a result with an error in it, not a failed unit.
    """
    store = ArtefactStore(Path(payload["artifact_root"]))
    if "found" in payload:
        return session.measure_again(
            found=payload["found"],
            latency_map=LatencyMap.from_dict(payload["latency_map"]),
            budget=payload["budget"],
            scope=payload["scope"],
            artefacts=lambda name, content: store.put(content),
            progress=report,
            dense_ratio=payload.get("dense_ratio", 1.0),
        )
    found = session.measure(
        finalists=[tuple(genes) for genes in payload["finalists"]],
        uniform=[tuple(genes) for genes in payload["uniform"]],
        latency_map=LatencyMap.from_dict(payload["latency_map"]),
        budget=payload["budget"],
        scope=payload["scope"],
        search_facts=payload["search"],
        artefacts=lambda name, content: store.put(content),
        progress=report,
        dense_ratio=payload.get("dense_ratio", 1.0),
    )
    if "before" in payload:
        return merged(
            payload["before"], found, session.input, lambda name, content: store.put(content)
        )
    return {name: value for name, value in found.items() if name != "drawing"}
