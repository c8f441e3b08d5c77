"""What torchvision's Swin saves, against itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsevit.errors import ConfigError
from sparsevit.swin.checkpoints.load import load_backbone
from sparsevit.swin.checkpoints.save import backbone_to_tensors, save_backbone
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


def classifier(**other) -> nn.Module:
    models = import_torchvision().models.swin_transformer
    shape = {"patch_size": [4, 4], "window_size": [7, 7], "num_classes": 3} | SHAPE | other
    return randomise(models.SwinTransformer(**shape))


def features(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The output of both stages [B, C, H, W], the last one normed."""
    network = network.double()
    with torch.no_grad():
        first = network.features[:2](images)
        last = network.norm(network.features[2:](first))
    return [untrained_norm(first.permute(0, 3, 1, 2)), last.permute(0, 3, 1, 2)]


@pytest.mark.parametrize("size", [LARGE, ONE_WINDOW, ONE_ROW, (76, 100)])
def test_a_classifiers_file(tmp_path: Path, size: tuple[int, int]) -> None:
    network = classifier()
    torch.save(network.state_dict(), tmp_path / "swin.pth")
    model = load_backbone(tmp_path / "swin.pth")
    report = model.load_report
    assert (report.dialect, model.config.small_map) == ("torchvision", "axis")
    assert report.left["a head"] == ("head.bias", "head.weight")
    assert len(report.left["follows from the architecture"]) == 6
    images = pictures(size)
    assert_equal_features(model, images, features(network, images))


def test_the_body_of_a_detector(tmp_path: Path) -> None:
    state = {f"backbone.body.{key}": value for key, value in classifier().state_dict().items()}
    state["rpn.head.conv.weight"] = torch.ones(3)
    torch.save({"model": state}, tmp_path / "detector.pth")
    report = load_backbone(tmp_path / "detector.pth").load_report
    assert report.prefix == "model.backbone.body."
    assert report.left["another part of a larger model"] == ("model.rpn.head.conv.weight",)


def test_a_classifier_written_back_loads_into_torchvision(tmp_path: Path) -> None:
    network = classifier()
    torch.save(network.state_dict(), tmp_path / "swin.pth")
    model = load_backbone(tmp_path / "swin.pth")
    for seed, part in enumerate((model.patch_embed, model.layers, model.norm1)):
        randomise(part, seed + 7)
    save_backbone(model, tmp_path / "back.pth", dialect="torchvision")
    state = torch.load(tmp_path / "back.pth", weights_only=True)
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith("head.") or "position_index" in key for key in missing)
    images = pictures(ONE_ROW)
    assert_equal_features(model, images, features(network, images))


def test_what_torchvision_has_no_place_for_is_said(tmp_path: Path) -> None:
    torch.save(classifier().state_dict(), tmp_path / "swin.pth")
    model = load_backbone(tmp_path / "swin.pth")
    randomise(model.norm0)
    with pytest.raises(ConfigError, match="no output norm for stages 1"):
        backbone_to_tensors(model, dialect="torchvision")
