"""Boxes as differences to other boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder


class DeltaCoder(BoxCoder):
    """torchvision's coder, which limits how much a box may grow; mmdet also limits how far it shrinks.

    weights: one over mmdet's standard deviations of the differences.
    """

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """rel_codes [n, 4 * classes] of boxes [n, 4]."""
        codes = rel_codes.unflatten(-1, (-1, 4))
        least = -self.bbox_xform_clip * codes.new_tensor(self.weights[2:])
        scales = torch.maximum(codes[..., 2:], least)
        return super().decode_single(torch.cat([codes[..., :2], scales], -1).flatten(-2), boxes)
