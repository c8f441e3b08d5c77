from __future__ import annotations

import pytest
import torch

from sparsevit.data.digits import DigitCanvases
from sparsevit.evaluate import evaluate, run_trie
from sparsevit.metrics import merge
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.sparsity.score import SCORES, get_score
from sparsevit.swin.layers import SwinBlock

CANDIDATES = [(0, 0, 0), (3, 0, 2), (3, 0, 5), (3, 4, 4), (8, 8, 8), (3, 0, 2)]


@pytest.mark.parametrize("score", sorted(SCORES))
def test_the_trie_is_bit_identical_to_one_by_one(tiny_model, score: str) -> None:
    images = torch.randn(2, 3, 112, 112)
    found = {}
    with torch.inference_mode():
        for members, outputs in run_trie(tiny_model, CANDIDATES, get_score(score), images):
            found |= dict.fromkeys(members, outputs)
        for index, genes in enumerate(CANDIDATES):
            tiny_model.set_sparsity(SparsityConfig.from_genes(genes, (1, 2), score))
            assert torch.equal(found[index], tiny_model(images))


def test_common_prefixes_are_computed_once(tiny_model) -> None:
    runs = []
    for module in tiny_model.modules():
        if isinstance(module, SwinBlock):
            module.register_forward_pre_hook(lambda *_: runs.append(1))
    with torch.inference_mode():
        list(run_trie(tiny_model, CANDIDATES, get_score("l2"), torch.randn(1, 3, 112, 112)))
    # Distinct prefixes: 3 of one gene, 4 of two (0 0, 3 0, 3 4, 8 8), 5 of three; two blocks each.
    assert len(runs) == 2 * (3 + 4 + 5)


def test_shards_of_images_merge_to_the_whole(tiny_model) -> None:
    data = DigitCanvases("search", 6, 224)
    whole = evaluate(tiny_model, CANDIDATES[:2], "variance", data, range(6), batch=2)
    parts = [
        evaluate(tiny_model, CANDIDATES[:2], "variance", data, indices, batch=2)
        for indices in (range(4), range(4, 6))
    ]
    for candidate in (0, 1):
        merged = merge([*parts[0][candidate], *parts[1][candidate]], tiny_model.metric)
        assert merged == merge(whole[candidate], tiny_model.metric)
    assert len(whole[0]) == 3
