"""Mask R-CNN out of mmdet's checkpoints: its own answers, and a test for every convention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import sparsevit
from sparsevit.data.coco import CLASS_NAMES
from sparsevit.data.instances import Instances
from sparsevit.data.preprocess import Preprocess
from sparsevit.data.rle import encode
from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.latency.modes import apply_mode
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.tasks.maskrcnn.model import MaskRCNN
from sparsevit.tasks.maskrcnn.paste import pasted
from sparsevit.tasks.maskrcnn.proposals import Anchors
from sparsevit.tasks.maskrcnn.regions import BoxPredictor, RegionPool
from tests.sparsevit.tasks import mmdet

SIZE = (96, 160)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mmdet.write(tmp_path_factory.mktemp("mmdet") / "epoch_36.pth")


@pytest.fixture
def model(checkpoint: Path) -> MaskRCNN:
    return sparsevit.load_model(checkpoint)


def images(count: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(4))


def test_it_is_mmdet_s_detector_from_end_to_end(model: MaskRCNN) -> None:
    """Proposals, detections and masks of each image of a batch, by the definition."""
    batch = images(2)
    with torch.no_grad():
        found = model(batch)
        features = model.backbone(batch)
    theirs = mmdet.Detector(mmdet.tensors(), SIZE)
    for index in range(2):
        maps = theirs.pyramid([x[index : index + 1] for x in features])
        boxes, scores, classes = theirs.detections(maps, theirs.proposals(maps))
        mine = found[index]
        assert len(scores) > 20
        assert set(classes.tolist()) == {0, 1, 2}
        assert mine.labels.tolist() == classes.tolist()
        assert torch.allclose(mine.scores, scores, atol=1e-5)
        assert torch.allclose(mine.boxes, boxes, atol=1e-2)
        masks = theirs.masks(maps, mine.boxes, classes)  # of the same boxes to the last bit
        assert torch.allclose(mine.masks, masks, atol=1e-4)


def test_what_is_read_and_what_it_is_called(model: MaskRCNN, tmp_path: Path) -> None:
    assert model.task == "instance_segmentation"
    assert model.class_names == ("0", "1", "2")
    assert model.dialect == "openmmlab"
    assert not model.load_report.left
    whole = sparsevit.load_model(mmdet.write(tmp_path / "coco.pth", classes=80))
    assert whole.class_names == CLASS_NAMES


def test_saved_weights_have_mmdet_s_names_and_layout(model: MaskRCNN, tmp_path: Path) -> None:
    sparsevit.save_model(model, tmp_path / "tuned.safetensors")
    written, before = load_file(tmp_path / "tuned.safetensors"), mmdet.tensors()
    assert written.keys() == before.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in before.items())
    again = sparsevit.load_model(tmp_path / "tuned.safetensors")
    with torch.no_grad():
        assert torch.equal(again(images())[0].boxes, model(images())[0].boxes)


# --- one convention a test -------------------------------------------------------------------------


def test_anchors_are_not_rounded_and_lie_a_stride_apart() -> None:
    """torchvision rounds 22.6 to 23, and divides 100 rows by 7 maps' rows."""
    maps = [torch.zeros(1, 1, 7, 5), torch.zeros(1, 1, 4, 3)]
    image_list = type("Sizes", (), {"image_sizes": [(25, 20)] * 2})
    found = Anchors((4, 8))(image_list, maps)
    expected = torch.cat([mmdet.grid(7, 5, 4), mmdet.grid(4, 3, 8)])
    assert len(found) == 2
    assert torch.allclose(found[0], expected, atol=1e-5)
    assert found[0][0].tolist() == pytest.approx([-22.627, -11.314, 22.627, 11.314], abs=1e-3)


def test_regions_are_aligned_and_sampled_as_often_as_they_have_pixels() -> None:
    """torchvision's pooler is shifted by half a pixel, and takes two samples a side."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 3, 64 // 2**i, 80 // 2**i, generator=generator) for i in range(4)]
    boxes = torch.tensor([
        [3.0, 5, 20, 15], [0, 0, 320, 256], [100, 20, 300, 250], [10, 10, 10.5, 200],
        [300, 240, 320, 256],
    ])  # fmt: skip
    found = RegionPool(7, (4, 8, 16, 32))(maps, [boxes])
    assert torch.allclose(found, mmdet.pool(maps, boxes, 7), atol=1e-4)


def test_regions_go_to_the_next_level_from_112_pixels_on() -> None:
    maps = [torch.full((1, 1, 8, 8), float(level)) for level in range(4)]
    sides = [10.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 2000.0]
    boxes = torch.tensor([[0, 0, side, side] for side in sides])
    # The upper left cells: large regions reach beyond these small maps.
    levels = RegionPool(7, (4, 8, 16, 32))(maps, [boxes])[:, 0, 0, 0]
    assert levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_boxes_are_coded_in_tenths_and_fifths(model: MaskRCNN) -> None:
    deltas = torch.tensor([[1.0, -2, 0.5, 1], [0, 0, 50, -50]])
    boxes = torch.tensor([[10.0, 20, 40, 80], [0, 0, 8, 8]])
    for coder, stds in (
        (model.head.regions.box_coder, (0.1, 0.1, 0.2, 0.2)),
        (model.head.rpn.box_coder, (1, 1, 1, 1)),
    ):
        found = coder.decode(deltas, [boxes])[:, 0]
        assert torch.allclose(found, mmdet.decode(boxes, deltas, stds), rtol=1e-5, atol=1e-3)


def test_the_background_is_the_last_class_and_has_no_box() -> None:
    predictor, x = BoxPredictor(5, 3), torch.randn(2, 5)
    scores, boxes = predictor(x)
    assert torch.equal(scores[:, 0], predictor.fc_cls(x)[:, 3])
    assert torch.equal(scores[:, 1:], predictor.fc_cls(x)[:, :3])
    assert boxes.shape == (2, 16)
    assert torch.equal(boxes[:, 4:], predictor.fc_reg(x))


def test_pixels_are_rgb_with_imagenet_s_mean_in_0_to_255(model: MaskRCNN) -> None:
    image = np.array([[[200, 100, 50]]], np.uint8)
    found = model.preprocess([image]).flatten()
    expected = (
        torch.tensor([200, 100, 50]) - torch.tensor([123.675, 116.28, 103.53])
    ) / torch.tensor([58.395, 57.12, 57.375])
    assert torch.allclose(found, expected, atol=1e-5)


def test_images_fill_the_input_and_boxes_go_back_to_the_image_s_own_pixels(model: MaskRCNN) -> None:
    """keep_ratio=False, as the released configs have it: each side has a scale of its own."""
    model.preprocess = Preprocess(resize=(64, 96))
    assert model.preprocess([np.zeros((50, 40, 3), np.uint8)]).shape == (1, 3, 64, 96)
    with torch.no_grad():
        found = model(images(size=(64, 96)))
    detections = model.detections(found, 0, (50, 40), (64, 96))
    boxes = found[0].boxes.double() * torch.tensor([40 / 96, 50 / 64] * 2)
    assert detections.boxes[:, :2] == pytest.approx(boxes[:, :2].numpy(), abs=1e-4)
    sides = (boxes[:, 2:] - boxes[:, :2]).numpy()
    assert detections.boxes[:, 2:] == pytest.approx(sides, abs=1e-4)


def test_proposals_are_suppressed_level_by_level_and_detections_class_by_class(
    model: MaskRCNN,
) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5.1], [0, 0, 10, 4.9]])
    scores = torch.tensor([[0.9, 0.02], [0.3, 0.8], [0.6, 0.04], [0.5, 0.05]])
    kept = model.head.regions._kept(boxes[:, None].expand(-1, 2, -1), scores, SIZE)
    # Of the first class the third box overlaps the best by .51, the fourth by .49; scores up to .05
    # are no detections.
    assert kept[1].tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert kept[2].tolist() == [0, 1, 0]
    levels = [2, 2]
    found, _ = model.head.rpn.filter_proposals(
        boxes[None], torch.tensor([[4.0, 3, 2, 1]]), [SIZE], levels
    )
    assert found[0].tolist() == boxes[[0, 2]].tolist()  # .9 goes, .51 and another level do not


def test_numbers_of_proposals(model: MaskRCNN) -> None:
    rpn = model.head.rpn
    assert (rpn.train().pre_nms_top_n(), rpn.post_nms_top_n()) == (2000, 1000)
    assert (rpn.eval().pre_nms_top_n(), rpn.post_nms_top_n()) == (1000, 1000)


@pytest.mark.parametrize("seed", range(3))
def test_masks_are_pasted_without_rounding_their_boxes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(28, 28, generator=generator)
    boxes = torch.tensor([[2.3, 4.7, 30.2, 25.9], [-3, -2, 8, 9], [31, 20, 40, 30], [5, 5, 5, 9]])
    found = pasted(mask.expand(4, -1, -1), boxes, (30, 40))
    for image, box in zip(found[:3], boxes, strict=False):
        assert np.array_equal(image, mmdet.paste(mask, box, (30, 40)).numpy())
    assert found[3].sum() <= 9  # without an area


# --- training --------------------------------------------------------------------------------------


def target(size: tuple[int, int] = SIZE, crowd: bool = False) -> Instances:
    masks = np.zeros((3, *size), np.uint8)
    boxes = np.array([[8.0, 8, 50, 60], [70, 20, 60, 40], [0, 0, 20, 20]])
    for mask, (left, top, width, height) in zip(masks, boxes.astype(int), strict=True):
        mask[top : top + height, left : left + width] = 1
    crowds = np.array([False, False, crowd])
    return Instances(
        1, size, np.array([0, 2, 1]), boxes, masks.sum((1, 2)) * 1.0, crowds, encode(masks)
    )


def test_training_lowers_every_loss_and_reaches_every_weight(model: MaskRCNN) -> None:
    model.train()
    batch, targets = images(2), [target(), target(crowd=True)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)
        loss = model.loss(batch, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert not {name for name, p in model.named_parameters() if p.grad is None}


def test_the_loss_is_the_same_in_training_and_evaluation_mode(model: MaskRCNN) -> None:
    values = []
    for mode in (True, False):
        torch.manual_seed(1)
        values.append(model.train(mode).loss(images(), [target()]).item())
    assert values[0] == values[1]


def test_an_image_without_objects_teaches_the_background(model: MaskRCNN) -> None:
    nothing = target().chosen(np.zeros(3, bool))
    loss = model.train().loss(images(2), [nothing, nothing])
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_stay_precise_in_16_bits(model: MaskRCNN, dtype: torch.dtype) -> None:
    model = model.to(dtype)
    with torch.no_grad():
        found = model(images().to(dtype))[0]
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert len(found.scores) > 5
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.float().train().loss(images(), [target()])
    assert torch.isfinite(loss)


def test_windows_are_skipped(model: MaskRCNN) -> None:
    model.set_sparsity(SparsityConfig.uniform(model.backbone.config.pairs, 0.5, "l2"))
    with torch.no_grad():
        model(images(size=(224, 224)))
    assert model.executed_windows[0] == (32, 32)


def test_augmentation_moves_masks_and_boxes_alike(model: MaskRCNN) -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    whole = target()
    image[whole.bitmaps()[1] > 0] = 255
    for seed in range(12):
        varied, found = model.augment(image, whole, (80, 120), np.random.default_rng(seed))
        assert varied.shape == (80, 120, 3)
        (second,) = np.flatnonzero(found.classes == 2)
        mask = found.bitmaps()[second] > 0
        assert (mask != (varied[..., 0] > 127)).mean() < 0.02
        left, top, width, height = found.boxes[second]
        rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        assert [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1] == pytest.approx(
            [left, top, left + width, top + height], abs=1.01
        )


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"roi_head.mask_head.conv_logits.weight": None}, "only Mask R-CNN"),
        ({"roi_head.bbox_head.fc_reg.bias": None}, "missing .*fc_reg.bias"),
        ({"roi_head.bbox_head.shared_fcs.2.weight": torch.ones(3, 3)}, "no place for"),
        ({"neck.lateral_convs.0.bn.weight": torch.ones(3)}, "without norms in its heads"),
        ({"roi_head.bbox_head.0.fc_cls.weight": torch.ones(3, 3)}, "no place for"),
        ({"rpn_head.rpn_reg.weight": torch.ones(3, 3)}, "rpn_reg"),
    ],
)
def test_what_is_no_mask_rcnn_is_refused(tmp_path: Path, changes, says: str) -> None:
    with pytest.raises(CheckpointMismatch, match=says):
        sparsevit.load_model(mmdet.write(tmp_path / "bad.pth", **changes))


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"channels": 0}, {"channels": 10**9}, {"layers": 3}, {"mask_layers": True}):
        with pytest.raises(ConfigError):
            MaskRCNN(mmdet.backbone(), ["a"], settings)
    with pytest.raises(ConfigError, match="from the first"):
        MaskRCNN(sparsevit.SparseSwin(mmdet.SHAPE, out_stages=(1, 2, 3)), ["a"])


def test_it_is_not_recorded_as_a_graph(model: MaskRCNN) -> None:
    with pytest.raises(ConfigError, match="shapes depend on what it sees"):
        apply_mode(model, "cuda_graph", torch.device("cuda"))


def test_images_must_not_be_cut(model: MaskRCNN) -> None:
    model.preprocess = Preprocess(resize=(64, 64), slide=0.5)
    with pytest.raises(ConfigError, match="slide"):
        model.states([], [])
