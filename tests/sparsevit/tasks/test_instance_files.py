"""Mask2Former of transformers for instances: whose checkpoint it is, its detections, its loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sparsevit
from sparsevit.data.cityscapes import CLASS_NAMES as CITY_NAMES
from sparsevit.data.coco import CLASS_NAMES
from sparsevit.data.rle import decode
from sparsevit.errors import CheckpointMismatch
from sparsevit.tasks.mask2former import Mask2Former
from sparsevit.tasks.mask2former_instance import Mask2FormerInstance
from tests.sparsevit.integrations import models
from tests.sparsevit.tasks.test_mask_rcnn import target

SIZE = (96, 160)


def saved(folder: Path, names: tuple[str, ...]) -> Path:
    network = models.mask2former(num_labels=len(names)).float()
    network.config.id2label = dict(enumerate(names))
    network.save_pretrained(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Mask2FormerInstance:
    return sparsevit.load_model(saved(tmp_path / "model", CLASS_NAMES))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (CLASS_NAMES, Mask2FormerInstance),
        (CITY_NAMES[-8:], Mask2FormerInstance),
        (CITY_NAMES, Mask2Former),
        (("a", "b"), Mask2Former),
    ],
)
def test_the_classes_tell_what_a_checkpoint_is_for(tmp_path: Path, names, kind: type) -> None:
    assert type(sparsevit.load_model(saved(tmp_path / "m", tuple(names)))) is kind


@pytest.mark.parametrize(
    ("task", "kind"),
    [("instance_segmentation", Mask2FormerInstance), ("semantic_segmentation", Mask2Former)],
)
def test_the_task_that_is_asked_for_decides(tmp_path: Path, task: str, kind: type) -> None:
    for names in (("a", "b"), CLASS_NAMES):
        folder = saved(tmp_path / str(len(names)), names)
        assert type(sparsevit.load_model(folder, task=task)) is kind


def test_another_task_than_the_checkpoint_s_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", CLASS_NAMES)
    with pytest.raises(CheckpointMismatch, match="what is asked for is classification"):
        sparsevit.load_model(folder, task="classification")


def test_saved_weights_are_the_same_model(model: Mask2FormerInstance, tmp_path: Path) -> None:
    sparsevit.save_model(model, tmp_path / "alone.safetensors")
    again = sparsevit.load_model(tmp_path / "alone.safetensors")
    assert type(again) is Mask2FormerInstance
    assert all(torch.equal(t, again.state_dict()[k]) for k, t in model.state_dict().items())


def test_detections_are_the_definition(model: Mask2FormerInstance) -> None:
    """Pairs of a query and a class, scored by the class times the mean of the mask where it is on."""
    with torch.no_grad():
        outputs = model(models.images(SIZE, batch=2).float())
    for index in range(2):
        masks = F.interpolate(outputs.masks[index][None], (50, 70), mode="bilinear")[0]
        pairs = []
        for query, mask in enumerate(masks):
            shares = outputs.classes[index, query].softmax(0)[:-1]
            inside = mask > 0
            sure = mask.sigmoid()[inside].mean().item() if inside.any() else 0.0
            pairs += [(share.item(), share.item() * sure, kind, inside)
                      for kind, share in enumerate(shares)]  # fmt: skip
        best = sorted(pairs, key=lambda pair: -pair[0])[:100]
        found = model.detections(outputs, index, (50, 70), SIZE)
        assert found.scores.tolist() == pytest.approx([score for _, score, _, _ in best], abs=1e-5)
        assert found.classes.tolist() == [kind for _, _, kind, _ in best]
        for bitmap, box, (_, _, _, inside) in zip(
            decode(found.masks, (50, 70)), found.boxes, best, strict=True
        ):
            assert np.array_equal(bitmap > 0, inside.numpy())
            left, top, width, height = box.astype(int)
            assert bitmap[top : top + height, left : left + width].sum() == bitmap.sum()


def test_the_loss_is_transformers_own(tmp_path: Path) -> None:
    network = models.mask2former(num_labels=80).float()
    network.config.id2label = dict(enumerate(CLASS_NAMES))
    network.save_pretrained(tmp_path)
    ours = sparsevit.load_model(tmp_path)
    images, targets = models.images(SIZE, batch=2).float(), [target(), target(crowd=True)]
    kept = [slice(3), slice(2)]  # no crowd is learned
    masks = [torch.from_numpy(t.bitmaps()[k]).float() for t, k in zip(targets, kept, strict=True)]
    classes = [torch.from_numpy(t.classes[k]) for t, k in zip(targets, kept, strict=True)]
    with torch.no_grad():
        torch.manual_seed(3)  # of the points at which masks are compared
        expected = network(images, mask_labels=masks, class_labels=classes).loss
        torch.manual_seed(3)
        loss = ours.loss(images, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
