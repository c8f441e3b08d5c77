"""The trie's cost against torch's FLOP counter and against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparsevit.errors import ConfigError
from sparsevit.evaluate import run_trie
from sparsevit.search.space import SearchSpace
from sparsevit.search.trie_cost import count_macs, mac_table
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.sparsity.score import get_score
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

CONFIG = SwinConfig(embed_dim=8, depths=(2, 4, 2), num_heads=(1, 2, 4))
CANDIDATES = [(0, 0, 0, 0), (3, 0, 2, 1), (3, 0, 2, 5), (3, 0, 5, 5), (3, 4, 4, 0), (3, 0, 2, 5)]


class BackboneAlone(torch.nn.Module):
    """A backbone under the name that the trie walks, with a head that computes nothing."""

    def __init__(self, backbone: SparseSwin) -> None:
        super().__init__()
        self.backbone = backbone

    def head(self, features):
        return features


def counted(run) -> int:
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as c:
        run()
    return c.get_total_flops() // 2


@pytest.mark.parametrize("size", [(224, 224), (100, 158)])  # whole windows, and padded ones
def test_the_counts_are_those_of_the_flop_counter(size):
    backbone, images = SparseSwin(CONFIG).eval(), torch.randn(1, 3, *size)
    table = mac_table(CONFIG, *size)
    model = BackboneAlone(backbone)
    found = count_macs(table, CANDIDATES)
    score = get_score("variance")
    assert found.trie == counted(lambda: list(run_trie(model, CANDIDATES, score, images)))
    alone = 0
    for genes in CANDIDATES:
        backbone.set_sparsity(SparsityConfig.from_genes(genes, CONFIG.pairs, "variance"))
        alone += counted(lambda: backbone(images))
    assert found.one_by_one == alone


def test_a_trie_of_one_config_saves_nothing_and_of_equals_all():
    table = mac_table(CONFIG, 224, 224)
    one = count_macs(table, CANDIDATES[1:2])
    assert one.trie == one.one_by_one
    same = count_macs(table, CANDIDATES[1:2] * 5)
    assert (same.trie, same.one_by_one) == (one.trie, 5 * one.one_by_one)


def test_the_count_is_that_of_a_set_of_prefixes():
    space = SearchSpace(CONFIG.pairs, CONFIG.stage_windows(448, 448))
    rows = space.sample(np.random.default_rng(0), 300)
    table = mac_table(CONFIG, 448, 448)
    prefixes = {tuple(row[: end + 1]) for row in rows.tolist() for end in range(4)}
    expected = sum(table.pair[len(p) - 1, p[-1]] + table.merge[len(p) - 1] for p in prefixes)
    assert count_macs(table, rows).trie == table.embed + expected


def test_configs_of_another_network_are_refused():
    with pytest.raises(ConfigError, match="4 levels"):
        count_macs(mac_table(CONFIG, 224, 224), [(0, 0, 0)])
