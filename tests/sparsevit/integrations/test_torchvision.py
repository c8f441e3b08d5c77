"""torchvision's Swins: as a SparseSwin, and with one inside."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsevit
from sparsevit.errors import CheckpointMismatch, ConfigError
from tests.oracles import import_torchvision
from tests.sparsevit.checkpoints.networks import assert_equal_features, randomise, untrained_norm
from tests.sparsevit.integrations import models
from tests.sparsevit.integrations.models import EVEN, PADDED, SMALL

SHAPE = {
    "patch_size": [4, 4],
    "embed_dim": 8,
    "depths": [2, 4, 2],
    "num_heads": [1, 2, 4],
    "window_size": [7, 7],
    "stochastic_depth_prob": 0.0,
    "num_classes": 5,
}
SIZES = (EVEN, PADDED, SMALL, (112, 224))


def swin(**other: Any) -> nn.Module:
    import_torchvision()
    module = importlib.import_module("torchvision.models.swin_transformer")
    return randomise(module.SwinTransformer(**(SHAPE | other))).double()


def second() -> nn.Module:
    module = importlib.import_module("torchvision.models.swin_transformer")
    parts = {"block": module.SwinTransformerBlockV2, "downsample_layer": module.PatchMergingV2}
    return swin(**parts)


def stage_outputs(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    """What torchvision's own feature extraction gives of the stages, the last one normed."""
    extraction = importlib.import_module("torchvision.models.feature_extraction")
    names = {"features.1": "a", "features.3": "b", "norm": "c"}
    with torch.no_grad():
        found = extraction.create_feature_extractor(model, names)(pixels)
    return [found[name].permute(0, 3, 1, 2) for name in "abc"]


@pytest.mark.parametrize("size", SIZES)
def test_features_equal_those_of_torchvision(size: tuple[int, int]) -> None:
    theirs, pixels = swin(), models.images(size)
    *inner, last = stage_outputs(theirs, pixels)
    backbone = sparsevit.from_torchvision(theirs)
    assert backbone.config.small_map == "axis"
    assert_equal_features(backbone, pixels, [*map(untrained_norm, inner), last])


@pytest.mark.parametrize("size", SIZES)
def test_a_sparsified_classifier_keeps_its_logits_until_it_is_sparse(
    size: tuple[int, int],
) -> None:
    host, pixels = swin(), models.images(size)
    expected, head = models.run(host, pixels), host.head
    assert sparsevit.sparsify(host) is host
    assert host.head is head
    models.assert_equal_outputs(models.run(host, pixels), expected)
    backbone = sparsevit.find_backbone(host)
    dense = backbone.executed_windows
    backbone.set_sparsity(models.half(host))
    assert (models.run(host, pixels)["logits"] != expected["logits"]).any()
    assert backbone.executed_windows[0] == (dense[0][0] // 2,) * 2


def test_single_precision_mode_and_frozen_weights_are_kept() -> None:
    host, pixels = swin().float(), models.images(PADDED).float()
    expected = models.run(host, pixels)
    for parameter in host.features[1].parameters():
        parameter.requires_grad_(False)
    sparsevit.sparsify(host.train())
    assert all(module.training for module in host.modules())
    for name, parameter in sparsevit.find_backbone(host).named_parameters():
        assert parameter.requires_grad == (not name.startswith("layers.0.blocks.")), name
    models.assert_equal_outputs(models.run(host.eval(), pixels), expected, relative=5e-5)


def test_a_sparse_classifier_trains() -> None:
    host = sparsevit.sparsify(swin()).train()
    sparsevit.find_backbone(host).set_sparsity(models.half(host))
    nn.functional.cross_entropy(host(models.images(EVEN)), torch.tensor([1])).backward()
    assert all(p.grad is not None for p in sparsevit.find_backbone(host).parameters())


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (second, ConfigError, "Swin V2"),
        (lambda: swin(window_size=[7, 5]), ConfigError, r"windows of \[\(7, 5\)\]"),
        (lambda: swin(norm_layer=nn.RMSNorm), ConfigError, "RMSNorm, which SparseSwin"),
        (lambda: swin(depths=[2, 3, 2]), CheckpointMismatch, "even number"),
    ],
)
def test_what_cannot_be_represented_is_refused(make, error: type[Exception], match: str) -> None:
    model = make()
    expected = models.run(model, models.images(EVEN))
    with pytest.raises(error, match=match):
        sparsevit.from_torchvision(model)
    with pytest.raises((ConfigError, CheckpointMismatch)):
        sparsevit.sparsify(model)
    models.assert_equal_outputs(models.run(model, models.images(EVEN)), expected, relative=0)


def test_lost_drop_rates_are_told() -> None:
    with pytest.warns(UserWarning, match=r"drop rates of up to 0\.2"):
        sparsevit.sparsify(swin(stochastic_depth_prob=0.2))
    with pytest.warns(UserWarning, match=r"drop rates of up to 0\.4"):
        sparsevit.sparsify(swin(attention_dropout=0.4))
