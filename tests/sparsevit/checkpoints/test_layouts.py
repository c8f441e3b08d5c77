"""The original code, its ports and OpenMMLab, by written-out names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsevit.swin.checkpoints.dialect import from_unfold, to_unfold
from sparsevit.swin.checkpoints.load import load_backbone
from sparsevit.swin.checkpoints.save import backbone_to_tensors
from sparsevit.swin.layers import PatchMerging
from tests.sparsevit.checkpoints.layouts import (
    MICROSOFT,
    OPENMMLAB,
    UnfoldMerging,
    buffers,
    tensors,
    with_unfold_merging,
)
from tests.sparsevit.checkpoints.networks import (
    LARGE,
    ONE_ROW,
    ONE_WINDOW,
    assert_equal_features,
    hugging_features,
    pictures,
    randomise,
    swin_backbone,
    swin_config,
    transformers,
)

SIZES = [LARGE, ONE_ROW, (75, 101)]


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def assert_written_back(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Bit for bit what was read."""
    report = model.load_report
    written = backbone_to_tensors(model, dialect=report.dialect, prefix=report.prefix)
    left = {key for keys in report.left.values() for key in keys}
    assert written.keys() == state.keys() - left
    assert all(torch.equal(tensor, state[key]) for key, tensor in written.items())


@pytest.mark.parametrize("size", SIZES)
def test_a_detection_port(tmp_path: Path, size: tuple[int, int]) -> None:
    backbone = swin_backbone()
    state = under("backbone.", tensors(backbone, MICROSOFT) | buffers())
    state |= {"neck.fpn_convs.0.conv.weight": torch.ones(2), "rpn_head.bias": torch.ones(2)}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]}
    checkpoint = {"meta": {"epoch": 12}, "state_dict": state, "optimizer": optimizer}
    torch.save(checkpoint, tmp_path / "mask_rcnn.pth")
    model = load_backbone(tmp_path / "mask_rcnn.pth")
    report = model.load_report
    assert (report.dialect, report.prefix) == ("microsoft", "state_dict.backbone.")
    assert {reason: len(keys) for reason, keys in report.left.items()} == {
        "follows from the architecture": 2,
        "state of the training": 1,
        "another part of a larger model": 2,
    }
    assert model.config.small_map == "shift"
    images = pictures(size)
    assert_equal_features(model, images, hugging_features(backbone, images))


def original_classifier(network: nn.Module) -> dict[str, Tensor]:
    """A SwinModel's weights as the original code saves them."""
    backbone = swin_backbone(use_absolute_embeddings=network.config.use_absolute_embeddings)
    backbone.swin.load_state_dict(network.state_dict())
    named = tensors(backbone, MICROSOFT)
    named = {key: value for key, value in named.items() if key[:5] not in ("norm0", "norm1")}
    final = {f"norm.{leaf}": getattr(network.layernorm, leaf).data for leaf in ("weight", "bias")}
    return named | final


@pytest.mark.parametrize("size", [LARGE, ONE_WINDOW, ONE_ROW])
def test_the_original_code(tmp_path: Path, size: tuple[int, int]) -> None:
    network = randomise(transformers().SwinModel(swin_config()))
    named = original_classifier(network)
    head = {"head.weight": torch.ones(3, 16), "head.bias": torch.ones(3)}
    torch.save({"model": named | buffers() | head}, tmp_path / "swin_tiny.pth")
    model = load_backbone(tmp_path / "swin_tiny.pth")
    assert (model.load_report.dialect, model.load_report.prefix) == ("microsoft", "model.")
    assert model.load_report.left["a head"] == ("model.head.bias", "model.head.weight")
    assert model.config.small_map == "whole"
    images = pictures(size)
    network.set_attn_implementation("sdpa")
    with torch.no_grad():
        last_BLC = network.double()(images).last_hidden_state
    expected = last_BLC.transpose(1, 2).unflatten(2, (size[0] // 8, size[1] // 8))
    assert_equal_features(model, images, [expected])


@pytest.mark.parametrize("grid", [False, True])
def test_absolute_positions_as_a_list_or_a_grid(tmp_path: Path, grid: bool) -> None:
    """Classifiers of the original code list them; its detection ports keep rows and columns."""
    backbone = swin_backbone(use_absolute_embeddings=True)
    state = tensors(backbone, MICROSOFT)
    if grid:
        square = state["absolute_pos_embed"].transpose(1, 2).unflatten(2, (14, 14))
        state["absolute_pos_embed"] = square.contiguous()
    torch.save(state, tmp_path / "swin.pth")
    model = load_backbone(tmp_path / "swin.pth")
    assert model.config.absolute_positions == (14, 14)
    images = pictures((56, 56))
    assert_equal_features(model, images, hugging_features(backbone, images))


@pytest.mark.parametrize("size", SIZES)
def test_openmmlab(tmp_path: Path, size: tuple[int, int]) -> None:
    backbone = randomise(with_unfold_merging(swin_backbone()))
    state = under("backbone.", tensors(backbone, OPENMMLAB)) | {"bbox_head.w": torch.ones(1)}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "mask_rcnn.pth")
    model = load_backbone(tmp_path / "mask_rcnn.pth")
    report = model.load_report
    assert (report.dialect, report.prefix) == ("openmmlab", "state_dict.backbone.")
    assert model.config.small_map == "shift"
    assert "Its patch merging was reordered from the order of nn.Unfold." in report.notes
    images = pictures(size)
    assert_equal_features(model, images, hugging_features(backbone, images))


def test_a_merge_left_in_unfold_order_is_another_function() -> None:
    """Names and shapes agree, so nothing but the features tells."""
    theirs, ours = UnfoldMerging(8), PatchMerging(8)
    x_BHWC = torch.randn(1, 6, 6, 8)
    with torch.no_grad():
        expected = theirs(x_BHWC.flatten(1, 2), (6, 6)).unflatten(1, (3, 3))
        ours.load_state_dict(theirs.state_dict())
        assert (ours(x_BHWC) - expected).norm() > expected.norm()
        converted = {key: from_unfold(value) for key, value in theirs.state_dict().items()}
        ours.load_state_dict(converted)
        torch.testing.assert_close(ours(x_BHWC), expected)


@pytest.mark.parametrize(
    ("others", "small_map"), [(("head.fc.weight",), "whole"), (("neck.w", "head.w"), "shift")]
)
def test_openmmlab_with_one_norm(tmp_path: Path, others: tuple[str, ...], small_map: str) -> None:
    """mmpretrain names a classifier's norm as a detector's last: what else there is decides."""
    state = under("backbone.", tensors(with_unfold_merging(swin_backbone()), OPENMMLAB))
    state = {key: value for key, value in state.items() if "norm0" not in key}
    torch.save(state | dict.fromkeys(others, torch.ones(1)), tmp_path / "swin.pth")
    assert load_backbone(tmp_path / "swin.pth").config.small_map == small_map


def test_bevdet_has_norms_for_its_last_stages_only(tmp_path: Path) -> None:
    shape = {"depths": [2, 2, 2], "num_heads": [1, 2, 2]}
    shape["out_features"] = ["stage2", "stage3"]
    backbone = randomise(with_unfold_merging(swin_backbone(**shape)))
    state = under("img_backbone.", tensors(backbone, OPENMMLAB))
    torch.save({"state_dict": state | {"pts_bbox_head.w": torch.ones(1)}}, tmp_path / "bevdet.pth")
    model = load_backbone(tmp_path / "bevdet.pth")
    assert model.load_report.prefix == "state_dict.img_backbone."
    assert model.config.small_map == "shift"
    assert "It has no output norm for stages 1: there it starts untrained." in (
        model.load_report.notes
    )
    images = pictures((64, 176))
    assert_equal_features(model, images, hugging_features(backbone, images))


@pytest.mark.parametrize("family", [MICROSOFT, OPENMMLAB])
def test_a_detectors_backbone_is_written_back(tmp_path: Path, family: int) -> None:
    backbone = swin_backbone(use_absolute_embeddings=True)
    state = under("backbone.", tensors(backbone, family)) | {"neck.w": torch.ones(1)}
    if family == MICROSOFT:
        key = "backbone.absolute_pos_embed"
        state[key] = state[key].transpose(1, 2).unflatten(2, (14, 14)).contiguous()
    torch.save(state, tmp_path / "swin.pth")
    assert_written_back(load_backbone(tmp_path / "swin.pth"), state)


def test_a_classifier_of_the_original_code_is_written_back(tmp_path: Path) -> None:
    network = transformers().SwinModel(swin_config(use_absolute_embeddings=True))
    state = original_classifier(randomise(network)) | buffers()
    torch.save(state, tmp_path / "swin.pth")
    assert_written_back(load_backbone(tmp_path / "swin.pth"), state)


def test_unfold_order_by_its_definition() -> None:
    channels = 3
    theirs = torch.arange(4 * channels)
    ours = from_unfold(theirs)
    for place, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        for channel in range(channels):
            assert ours[place * channels + channel] == channel * 4 + row * 2 + column
    assert torch.equal(to_unfold(ours), theirs)
    matrix = torch.randn(6, 12)
    assert torch.equal(to_unfold(from_unfold(matrix)), matrix)
    assert torch.equal(from_unfold(matrix)[2], from_unfold(matrix[2]))
