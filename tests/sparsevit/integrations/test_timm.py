"""timm's Swins: as a SparseSwin, and with one inside."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsevit
from sparsevit.errors import CheckpointMismatch, ConfigError
from tests.sparsevit.checkpoints.networks import (
    assert_equal_features,
    randomise,
    transformers,
    untrained_norm,
)
from tests.sparsevit.integrations import models
from tests.sparsevit.integrations.models import EVEN, PADDED

SHAPE = {"embed_dim": 8, "depths": (2, 4, 2), "num_heads": (1, 2, 4), "drop_path_rate": 0.0}


def create(name: str = "swin_tiny_patch4_window7_224", **other: Any) -> nn.Module:
    transformers()  # torchvision first, which timm imports
    timm = importlib.import_module("timm")
    return randomise(timm.create_model(name, **(SHAPE | other))).double()


def features_only(**other: Any) -> nn.Module:
    return create(features_only=True, out_indices=(0, 1, 2), **other)


def nchw(maps: list[Tensor]) -> list[Tensor]:
    return [features.permute(0, 3, 1, 2) for features in maps]


# A square; the last stage fits one window; windows of 4 and unequal sides.
@pytest.mark.parametrize(
    ("size", "window"), [(EVEN, 7), ((112, 112), 7), ((112, 224), 7), ((128, 192), 4)]
)
def test_features_equal_those_of_timm(size: tuple[int, int], window: int) -> None:
    theirs, pixels = features_only(img_size=size, window_size=window), models.images(size)
    with torch.no_grad():
        expected = [untrained_norm(features) for features in nchw(theirs(pixels))]
    backbone = sparsevit.from_timm(theirs)
    assert (backbone.config.window_size, backbone.config.small_map) == (window, "axis")
    assert not backbone.training
    assert_equal_features(backbone, pixels, expected)


def test_a_classifier_gives_its_stages_and_its_norm() -> None:
    theirs, pixels = create(num_classes=5), models.images(EVEN)
    with torch.no_grad():
        *inner, _ = theirs.forward_intermediates(pixels, intermediates_only=True)
        last = theirs.forward_features(pixels).permute(0, 3, 1, 2)
    backbone = sparsevit.from_timm(theirs.train())
    assert theirs.training
    assert_equal_features(backbone, pixels, [*map(untrained_norm, inner), last])


def test_weights_are_copies() -> None:
    theirs = create()
    backbone = sparsevit.from_timm(theirs)
    with torch.no_grad():
        backbone.patch_embed.proj.weight.zero_()
        backbone.layers[0].blocks[0].attn.qkv.weight.zero_()
    assert theirs.patch_embed.proj.weight.abs().min() > 0
    assert theirs.layers[0].blocks[0].attn.qkv.weight.abs().min() > 0


def test_always_partition_is_read_from_the_model() -> None:
    size = (112, 112)
    theirs = features_only(img_size=size, always_partition=True)
    backbone, pixels = sparsevit.from_timm(theirs), models.images(size)
    assert backbone.config.small_map == "shift"
    with torch.no_grad():
        expected = [untrained_norm(features) for features in nchw(theirs(pixels))]
    assert_equal_features(backbone, pixels, expected)


def test_timm_differs_where_it_pads() -> None:
    """Documented: timm rolls before it pads. If this fails, timm has changed, and the docs may too."""
    theirs, pixels = create(num_classes=5, img_size=PADDED), models.images(PADDED)
    expected = models.run(theirs, pixels)["logits"]
    got = models.run(sparsevit.sparsify(theirs), pixels)["logits"]
    assert (got - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("size", [EVEN, (112, 112)])
def test_a_sparsified_classifier_keeps_its_logits_until_it_is_sparse(
    size: tuple[int, int],
) -> None:
    host, pixels = create(num_classes=5, img_size=size), models.images(size)
    expected = models.run(host, pixels)
    head = host.head
    assert sparsevit.sparsify(host) is host
    assert host.head is head
    models.assert_equal_outputs(models.run(host, pixels), expected)
    backbone = sparsevit.find_backbone(host)
    dense = backbone.executed_windows
    backbone.set_sparsity(models.half(host))
    assert (models.run(host, pixels)["logits"] != expected["logits"]).any()
    assert backbone.executed_windows[0] == (dense[0][0] // 2,) * 2


def test_single_precision_mode_and_frozen_weights_are_kept() -> None:
    host, pixels = create(num_classes=5).float(), models.images(EVEN).float()
    expected = models.run(host, pixels)
    for parameter in host.layers[0].parameters():
        parameter.requires_grad_(False)
    sparsevit.sparsify(host.train())
    backbone = sparsevit.find_backbone(host)
    assert all(module.training for module in host.modules())
    for name, parameter in backbone.named_parameters():
        # timm's first stage has no merge; ours ends with the merge that its second begins with.
        frozen = name.startswith("layers.0.blocks.")
        assert parameter.requires_grad == (not frozen), name
    models.assert_equal_outputs(models.run(host.eval(), pixels), expected, relative=5e-5)


def test_a_frozen_model_stays_frozen() -> None:
    host = create(num_classes=5).requires_grad_(False)
    host.head.requires_grad_(True)
    backbone = sparsevit.from_timm(host)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_sparse_classifier_trains() -> None:
    host = sparsevit.sparsify(create(num_classes=5)).train()
    sparsevit.find_backbone(host).set_sparsity(models.half(host))
    nn.functional.cross_entropy(host(models.images(EVEN)), torch.tensor([1])).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in host.head.parameters())
    assert all(p.grad is not None for p in sparsevit.find_backbone(host).parameters())


def test_its_state_dict_loads_into_another_sparsified_model() -> None:
    host = sparsevit.sparsify(create(num_classes=5))
    other = sparsevit.sparsify(randomise(create(num_classes=5), seed=9))
    other.load_state_dict(copy.deepcopy(host.state_dict()))
    pixels = models.images(EVEN)
    models.assert_equal_outputs(models.run(other, pixels), models.run(host, pixels), relative=0)


def with_layer_scale() -> nn.Module:
    layers = importlib.import_module("timm.layers")
    model = create()
    model.layers[0].blocks[0].ls1 = layers.LayerScale(8)
    return model


def with_a_stray_weight() -> nn.Module:
    model = create()
    model.layers[0].blocks[0].gamma = nn.Parameter(torch.ones(8))
    return model


def pruned() -> nn.Module:
    model = create()
    model.prune_intermediate_layers([0, 1])
    return model


FOUR = {"depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 4)}
V2 = {"depths": (2, 2), "num_heads": (1, 2), "embed_dim": 8}


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: create("swin_s3_tiny_224", **FOUR), ConfigError, r"\(14, 14\).*swin_s3"),
        (lambda: create(img_size=64), ConfigError, "larger img_size"),
        (lambda: create(window_size=(7, 14)), ConfigError, "square windows of one size"),
        (with_layer_scale, ConfigError, "LayerScale, which SparseSwin does not compute"),
        (with_a_stray_weight, CheckpointMismatch, "no place for"),
    ],
)
def test_what_cannot_be_represented_is_refused(make, error: type[Exception], match: str) -> None:
    model = make()
    for convert in (sparsevit.from_timm, sparsevit.sparsify):
        with pytest.raises(error, match=match):
            convert(model)
    assert isinstance(model.norm, nn.LayerNorm)


def test_other_networks_of_timm_are_refused() -> None:
    second = create("swinv2_tiny_window8_256", **V2)
    for convert in (sparsevit.from_timm, sparsevit.sparsify):
        with pytest.raises(ConfigError, match="Swin V2"):
            convert(second)
    with pytest.raises(ConfigError, match="no blocks of the Swin of timm"):
        sparsevit.from_timm(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="no blocks of the Swin of torchvision"):
        sparsevit.from_torchvision(create())
    with pytest.raises(ConfigError, match=r"use sparsevit\.from_timm"):
        sparsevit.sparsify(features_only())
    with pytest.raises(ConfigError, match="lost its norm"):
        sparsevit.sparsify(pruned())
    with pytest.warns(UserWarning, match=r"drop rates of up to 0\.3"):
        sparsevit.sparsify(create(drop_path_rate=0.3))
