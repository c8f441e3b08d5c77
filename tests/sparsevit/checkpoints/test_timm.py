"""What timm's Swins save, against themselves. (It rolls before it pads: sizes without padding.)"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.swin.checkpoints.load import load_backbone
from sparsevit.swin.checkpoints.save import backbone_to_tensors, save_backbone
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from tests.oracles import import_torchvision
from tests.sparsevit.checkpoints.networks import (
    LARGE,
    ONE_ROW,
    ONE_WINDOW,
    SHAPE,
    assert_equal_features,
    pictures,
    randomise,
    untrained_norm,
)

SIZES = [LARGE, ONE_WINDOW, ONE_ROW]


def classifier(size: tuple[int, int] = LARGE, **other) -> nn.Module:
    import_torchvision()
    from timm.models.swin_transformer import SwinTransformer

    return randomise(SwinTransformer(**({"img_size": size, "num_classes": 3} | SHAPE | other)))


def features_only(size: tuple[int, int] = LARGE, **other) -> nn.Module:
    import_torchvision()
    import timm

    shape = SHAPE | {"img_size": size, "features_only": True, "out_indices": (0, 1)} | other
    return randomise(timm.create_model("swin_tiny_patch4_window7_224", **shape))


def features(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The output of every stage [B, C, H, W], the last one normed."""
    with torch.no_grad():
        maps = network.double().forward_intermediates(images, norm=True, intermediates_only=True)
    return [*map(untrained_norm, maps[:-1]), maps[-1]]


def raw_features(network: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        maps_BHWC = network.double()(images)
    return [untrained_norm(x.permute(0, 3, 1, 2)) for x in maps_BHWC]


@pytest.mark.parametrize("size", SIZES)
def test_a_classifiers_file(tmp_path: Path, size: tuple[int, int]) -> None:
    network = classifier(size)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "swin_tiny_patch4_window7_224"}')
    model = load_backbone(tmp_path)
    assert (model.load_report.dialect, model.config.small_map) == ("timm", "axis")
    assert model.load_report.left == {"a head": ("head.fc.bias", "head.fc.weight")}
    images = pictures(size)
    assert_equal_features(model, images, features(network, images))


@pytest.mark.parametrize("size", SIZES)
def test_a_features_only_file(tmp_path: Path, size: tuple[int, int]) -> None:
    network = features_only(size)
    save_file(network.state_dict(), tmp_path / "swin.safetensors")
    model = load_backbone(tmp_path / "swin.safetensors")
    assert (model.load_report.dialect, model.config.small_map) == ("timm-features", "axis")
    assert not model.load_report.left
    images = pictures(size)
    assert_equal_features(model, images, raw_features(network, images))


def test_three_stages_are_told_from_the_original_naming(tmp_path: Path) -> None:
    """Both then have `layers.1.downsample`, of different stages."""
    shape = {"depths": [2, 2, 2], "num_heads": [1, 2, 2], "window_size": 4}
    network = classifier((64, 64), **shape)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "swin.pth")
    model = load_backbone(tmp_path / "swin.pth")
    assert (model.load_report.dialect, model.load_report.prefix) == ("timm", "state_dict.")
    images = pictures((64, 64))
    assert_equal_features(model, images, features(network, images))


def test_a_file_of_old_timm_is_the_original_naming(tmp_path: Path) -> None:
    shape = SwinConfig(embed_dim=8, depths=(2, 4), num_heads=(1, 2), small_map="whole")
    network = randomise(SparseSwin(shape))
    network.norm0.reset_parameters()
    state = backbone_to_tensors(network) | {"head.weight": torch.ones(3, 16)}
    assert {"layers.0.downsample.norm.weight", "norm.weight"} <= state.keys()
    torch.save(state, tmp_path / "swin.pth")
    model = load_backbone(tmp_path / "swin.pth")
    assert model.load_report.dialect == "microsoft"
    with torch.no_grad():
        expected = network.double()(pictures(ONE_ROW))
    assert_equal_features(model, pictures(ONE_ROW), expected)


def test_windows_that_timm_shrank_are_refused(tmp_path: Path) -> None:
    save_file(classifier((28, 28)).state_dict(), tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"windows of \[7, 4\].*one size"):
        load_backbone(tmp_path / "swin.safetensors")


def test_windows_that_are_not_square_are_refused(tmp_path: Path) -> None:
    save_file(classifier(window_size=(7, 5)).state_dict(), tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointMismatch, match="not square"):
        load_backbone(tmp_path / "swin.safetensors")


def test_swin_v2_is_refused_by_name(tmp_path: Path) -> None:
    import_torchvision()
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    network = SwinTransformerV2(img_size=56, window_size=7, **SHAPE)
    save_file(network.state_dict(), tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointMismatch, match="Swin V2"):
        load_backbone(tmp_path / "swin.safetensors")


def test_a_classifier_written_back_loads_into_timm(tmp_path: Path) -> None:
    network = classifier(ONE_ROW)
    save_file(network.state_dict(), tmp_path / "swin.safetensors")
    model = load_backbone(tmp_path / "swin.safetensors")
    for seed, part in enumerate((model.patch_embed, model.layers, model.norm1)):
        randomise(part, seed + 7)
    save_backbone(model, tmp_path / "back.pth", dialect="timm")
    state = torch.load(tmp_path / "back.pth", weights_only=True)
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert missing == ["head.fc.weight", "head.fc.bias"]
    assert_equal_features(model, pictures(ONE_ROW), features(network, pictures(ONE_ROW)))


def test_features_only_written_back_loads_into_timm(tmp_path: Path) -> None:
    network = features_only(ONE_ROW)
    save_file(network.state_dict(), tmp_path / "swin.safetensors")
    model = load_backbone(tmp_path / "swin.safetensors")
    for seed, part in enumerate((model.patch_embed, model.layers)):
        randomise(part, seed + 7)
    network.load_state_dict(backbone_to_tensors(model, dialect="timm-features"), strict=True)
    assert_equal_features(model, pictures(ONE_ROW), raw_features(network, pictures(ONE_ROW)))
    randomise(model.norm1)
    with pytest.raises(ConfigError, match="no output norm for stages 2"):
        backbone_to_tensors(model, dialect="timm-features")
