"""What `run_search` hands back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsevit.search.evolution import Evaluation
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.stops import StopReason


@dataclass(frozen=True)
class Searched:
    """The search at one input. stop: why it ended; None where the budget is out of its reach."""

    input: dict[str, Any]
    latency_map: LatencyMap
    stop: StopReason | None
    evaluations: list[Evaluation]


@dataclass
class SearchResult:
    """What a search found; the same documents that the service stores.

    document: the best config JSON (`save` writes it, `sparsevit.load_config` reads it).
    front: Pareto front, fastest first. evaluations: every candidate in the order of proposal.
    artefacts: name -> bytes of the pictures. receipts: id -> latency receipt. latency_map: of the
    document's input. weights: the safetensors that `document` was measured with, where the search
    trained; None: the model's own. searches: one for each input, in their order.
    """

    document: dict[str, Any]
    front: list[dict[str, Any]]
    evaluations: list[Evaluation]
    receipts: dict[str, dict[str, Any]]
    latency_map: LatencyMap
    verdicts: list[str]
    artefacts: dict[str, bytes] = field(repr=False)
    weights: bytes | None = field(default=None, repr=False)
    searches: list[Searched] = field(default_factory=list, repr=False)

    def save(self, folder: str | Path) -> Path:
        """Writes best.json, the pictures and, where the search made them, weights.safetensors;
        returns the path of best.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.artefacts.items():
            (folder / name).write_bytes(content)
        if self.weights is not None:
            (folder / "weights.safetensors").write_bytes(self.weights)
        best = folder / "best.json"
        best.write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")
        return best
