"""Networks that no exhaustive search fits: Swin-T and Swin-L at 672 pixels, with a made-up metric.

Their latency map is their multiply-accumulates (1 ms for each 1e9), and their metric a smooth function
of the levels. What a search proposes on them, and what its evaluation would compute, needs no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparsevit.search.latency_map import LatencyMap, map_facts
from sparsevit.search.space import LEVELS, SearchSpace
from sparsevit.search.trie_cost import MacTable, mac_table
from sparsevit.sparsity.config import Genes
from sparsevit.swin.config import SwinConfig

PIXELS = 672
MS_PER_MAC = 1e-9
DEVICE = "one that computes 1e12 MACs a second"
INPUT = {
    "height": PIXELS,
    "width": PIXELS,
    "batch": 1,
    "precision": "fp32",
    "mode": "eager",
    "threads": 1,
}


@dataclass(frozen=True)
class Shape:
    """A backbone of that name, to be searched without weights."""

    name: str
    config: SwinConfig

    @cached_property
    def macs(self) -> MacTable:
        return mac_table(self.config, PIXELS, PIXELS)

    @cached_property
    def space(self) -> SearchSpace:
        return SearchSpace(self.config.pairs, self.config.stage_windows(PIXELS, PIXELS))

    @cached_property
    def latency_map(self) -> LatencyMap:
        fixed = MS_PER_MAC * (self.macs.embed + int(self.macs.merge.sum()))
        pair_ms = MS_PER_MAC * self.macs.pair
        return LatencyMap(
            key=self.name,
            levels=LEVELS,
            fixed_ms=fixed,
            backbone_fixed_ms=fixed,
            pair_ms=tuple(tuple(row) for row in pair_ms.tolist()),
            dense_ms=float(fixed + pair_ms[:, 0].sum()),
            receipt={"id": f"rcpt_{self.name}"},
            facts=map_facts(
                architecture=self.config.to_dict(),
                input=INPUT,
                score="variance",
                device={"kind": "cpu", "model": DEVICE, "driver": None, "power_limit_w": None},
                versions={},
            ),
        )

    def metric(self, genes: Genes) -> float:
        """Falls faster the more is dropped, and more for early pairs; neighbours add to each other."""
        dropped = np.asarray(genes) / 10
        weights = np.linspace(1.5, 0.5, len(dropped))
        alone, together = (weights * dropped**2).sum(), (dropped[:-1] * dropped[1:]).sum()
        return float(0.6 - (0.2 * alone + 0.07 * together) / len(dropped))


SWIN_T = Shape("Swin-T", SwinConfig())
SWIN_L = Shape("Swin-L", SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)))
