"""The region proposal network: torchvision's, with mmdet's anchors, numbers and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from sparsevit.tasks.maskrcnn.coding import DeltaCoder

RATIOS = (0.5, 1.0, 2.0)  # height to width
SCALE = 8  # sides of a square anchor in strides
BEFORE = {"training": 2000, "testing": 1000}  # proposals of a level, before NMS
AFTER = {"training": 1000, "testing": 1000}  # of an image, after it
NMS_IOU = 0.7


class Anchors(AnchorGenerator):
    """Anchors as mmdet has them: not rounded to whole pixels, and apart by the level's stride, whatever
    the shape of the image. Their centers lie on the corners of the cells, as torchvision's do."""

    def __init__(self, strides: Sequence[int]) -> None:
        self.strides = tuple(strides)
        super().__init__(tuple((SCALE * s,) for s in strides), (RATIOS,) * len(strides))

    def generate_anchors(
        self,
        scales: Sequence[int],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """[ratios * scales, 4], round the origin."""
        high = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        sides = torch.tensor(scales, dtype=dtype, device=device)[None]
        half_width, half_height = (sides / high).flatten() / 2, (sides * high).flatten() / 2
        return torch.stack([-half_width, -half_height, half_width, half_height], dim=1)

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each image, all levels together."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        sizes = [list(maps.shape[-2:]) for maps in feature_maps]
        strides = [[torch.tensor(s, device=device)] * 2 for s in self.strides]
        anchors = torch.cat(self.grid_anchors(sizes, strides))
        return [anchors for _ in image_list.image_sizes]


class ProposalHead(RPNHead):
    """Its answers are fp32: in 16 bits boxes would be off by pixels."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, boxes = super().forward(x)
        return [s.float() for s in scores], [b.float() for b in boxes]


class Proposals(RegionProposalNetwork):
    """torchvision's network with mmdet's numbers. Training matches anchors as torchvision does: mmdet
    leaves out annotations that no anchor covers by an IoU of .3, which is rare."""

    def __init__(self, channels: int, strides: Sequence[int]) -> None:
        super().__init__(
            Anchors(strides),
            ProposalHead(channels, len(RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=BEFORE,
            post_nms_top_n=AFTER,
            nms_thresh=NMS_IOU,
        )
        self.box_coder = DeltaCoder((1.0, 1.0, 1.0, 1.0))
        self.min_size = torch.finfo(torch.float32).tiny  # whatever has an area is kept

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """(objectness, boxes): L1 of the boxes, where torchvision has a smooth one."""
        truth, wanted = torch.cat(labels), torch.cat(regression_targets)
        positive, negative = (torch.cat(chosen) > 0 for chosen in self.fg_bg_sampler(labels))
        sampled = positive | negative
        boxes = F.l1_loss(pred_bbox_deltas[positive], wanted[positive], reduction="sum")
        score = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], truth[sampled])
        return score, boxes / sampled.sum()
