"""What is made of the proposals: classes, boxes and masks, with mmdet's conventions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

from sparsevit.tasks.maskrcnn.coding import DeltaCoder

BOX_SIZE, MASK_SIZE = 7, 14  # cells of a side that a region is pooled to
FINEST = 56  # pixels: regions from twice this side on are pooled from the next level
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # one over mmdet's standard deviations .1, .1, .2, .2
SCORE, NMS_IOU, MOST = 0.05, 0.5, 100  # what is a detection; how many an image has


class Found(NamedTuple):
    """Detections of one image, the best first, in pixels of the input.

    boxes fp32 [n, 4]: left, top, right, bottom. scores fp32 [n]. labels [n]: class indices. masks
    fp32 [n, 28, 28]: probabilities within the box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


class RegionPool(nn.Module):
    """RoIAlign from the level that suits a region's size, as mmcv has it: shifted by half a pixel
    (aligned), and with as many samples as the region has pixels. Answers in fp32."""

    def __init__(self, size: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.size, self.strides = size, tuple(strides)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Boxes of each image [n, 4] to [all of them, C, size, size]."""
        rois = torch.cat([F.pad(b, (1, 0), value=float(i)) for i, b in enumerate(boxes)])
        sides = rois[:, 3:] - rois[:, 1:3]
        levels = torch.floor(torch.log2(sides.prod(1).sqrt() / FINEST + 1e-6))
        levels = levels.clamp(0, len(self.strides) - 1)
        pooled = rois.new_zeros(len(rois), maps[0].shape[1], self.size, self.size)
        with torch.autocast(rois.device.type, enabled=False):
            for level, (stride, features) in enumerate(zip(self.strides, maps, strict=False)):
                here = torch.where(levels == level)[0]
                pooled[here] = roi_align(
                    features.float(), rois[here], self.size, 1 / stride, 0, aligned=True
                )
        return pooled


class BoxPredictor(nn.Module):
    """Linear layers in mmdet's order: the background is the last class, and has no box.

    Answers in torchvision's order and in fp32: background first, with a box that is never used.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc_cls, self.fc_reg = nn.Linear(width, classes + 1), nn.Linear(width, 4 * classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc_cls(x).float().roll(1, -1), F.pad(self.fc_reg(x).float(), (4, 0))


class Regions(RoIHeads):
    """torchvision's sampling and box coding; the rest is mmdet's. Labels are class indices + 1."""

    def __init__(
        self,
        channels: int,
        classes: int,
        strides: Sequence[int],
        *,
        box_channels: int,
        mask_channels: int,
        mask_layers: int,
    ) -> None:
        layers = (mask_channels,) * mask_layers
        super().__init__(
            RegionPool(BOX_SIZE, strides),
            TwoMLPHead(channels * BOX_SIZE**2, box_channels),
            BoxPredictor(box_channels, classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=SCORE,
            nms_thresh=NMS_IOU,
            detections_per_img=MOST,
            mask_roi_pool=RegionPool(MASK_SIZE, strides),
            mask_head=MaskRCNNHeads(channels, layers, dilation=1),
            mask_predictor=MaskRCNNPredictor(mask_channels, mask_channels, classes),
        )
        self.box_coder = DeltaCoder(BOX_WEIGHTS)

    def forward(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], size: tuple[int, int]
    ) -> list[Found]:
        """Detections of each image. proposals: of each [n, 4]. size: (height, width) of the input."""
        scores, deltas = self._boxes(maps, proposals)
        counts = [len(p) for p in proposals]
        decoded = self.box_coder.decode(deltas, list(proposals)).split(counts)
        kept = [
            self._kept(boxes[:, 1:], share[:, 1:], size)
            for boxes, share in zip(decoded, scores.softmax(-1).split(counts), strict=True)
        ]
        logits = self._masks(maps, [boxes for boxes, _, _ in kept])
        labels = torch.cat([labels for _, _, labels in kept])
        masks = logits[torch.arange(len(labels), device=labels.device), labels].sigmoid()
        parts = masks.split([len(labels) for _, _, labels in kept])
        return [Found(*one, part) for one, part in zip(kept, parts, strict=True)]

    def losses(
        self,
        maps: Sequence[Tensor],
        proposals: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> list[Tensor]:
        """Of classes, boxes and masks. targets: boxes [n, 4], labels [n] from 1 on, masks [n, H, W]."""
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        scores, deltas = self._boxes(maps, proposals)
        truth = torch.cat(labels)
        positive = torch.where(truth > 0)[0]
        chosen = deltas.unflatten(1, (-1, 4))[positive, truth[positive]]
        boxes = F.l1_loss(chosen, torch.cat(wanted)[positive], reduction="sum") / len(truth)
        return [F.cross_entropy(scores, truth), boxes, self._mask_loss(
            maps, proposals, matched, labels, targets
        )]  # fmt: skip

    def _mask_loss(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Tensor],
        matched: Sequence[Tensor],
        labels: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]],
    ) -> Tensor:
        positive = [torch.where(truth > 0)[0] for truth in labels]
        boxes = [p[at] for p, at in zip(proposals, positive, strict=True)]
        logits = self._masks(maps, boxes)
        wanted = torch.cat([
            _cropped(target["masks"], box, which[at], logits.shape[-1])
            for target, box, which, at in zip(targets, boxes, matched, positive, strict=True)
        ])  # fmt: skip
        kinds = torch.cat([truth[at] for truth, at in zip(labels, positive, strict=True)]) - 1
        if not len(kinds):
            return 0.0 * logits.sum()  # a mean over nothing would be NaN
        mine = logits[torch.arange(len(kinds), device=kinds.device), kinds]
        return F.binary_cross_entropy_with_logits(mine, wanted)

    def _boxes(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        dtype = self.box_predictor.fc_cls.weight.dtype
        return self.box_predictor(self.box_head(self.box_roi_pool(maps, boxes).to(dtype)))

    def _masks(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Logits fp32 [regions, classes, 28, 28]."""
        dtype = self.box_predictor.fc_cls.weight.dtype
        pooled = self.mask_roi_pool(maps, boxes).to(dtype)
        return self.mask_predictor(self.mask_head(pooled)).float()

    def _kept(
        self, boxes: Tensor, scores: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(boxes, scores, labels) of one image: NMS class by class, then the best of all.

        boxes [proposals, classes, 4]. scores [proposals, classes].
        """
        rows, labels = torch.where(scores > self.score_thresh)
        boxes = clip_boxes_to_image(boxes[rows, labels], size)
        scores = scores[rows, labels]
        best = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return boxes[best], scores[best], labels[best]


def _cropped(masks_NHW: Tensor, boxes: Tensor, which: Tensor, size: int) -> Tensor:
    """The mask `which` of each box, within that box, at size x size: 0 or 1."""
    rois = torch.cat([which[:, None].to(boxes), boxes], 1)
    maps = masks_NHW[:, None].to(boxes)
    return (roi_align(maps, rois, size, 1.0, 0, aligned=True)[:, 0] >= 0.5).to(boxes)
