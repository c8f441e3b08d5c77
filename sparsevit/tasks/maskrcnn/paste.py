"""Masks of detections in the image's pixels, as mmdet pastes them."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.5


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> np.ndarray:
    """uint8 [n, H, W] of 0 and 1.

    masks [n, m, m]: probabilities within the boxes [n, 4] (left, top, right, bottom), which are not
    rounded: each pixel's center is looked up in the mask, bilinearly. torchvision rounds boxes first.
    """
    found = np.zeros((len(masks), *size), np.uint8)
    for canvas, mask, box in zip(found, masks.float().cpu(), boxes.float().cpu(), strict=True):
        left, top, right, bottom = box.tolist()
        rows = slice(max(0, math.floor(top) - 1), min(size[0], math.ceil(bottom) + 1))
        cols = slice(max(0, math.floor(left) - 1), min(size[1], math.ceil(right) + 1))
        y, x = _places(rows, box[1], box[3]), _places(cols, box[0], box[2])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        values = F.grid_sample(mask[None, None], grid[None], align_corners=False)
        canvas[rows, cols] = (values[0, 0] >= THRESHOLD).numpy()
    return found


def _places(pixels: slice, start: Tensor, stop: Tensor) -> Tensor:
    """The pixels' centers within start to stop, from -1 to 1."""
    centers = torch.arange(pixels.start, pixels.stop, dtype=torch.float32) + 0.5
    return ((centers - start) / (stop - start) * 2 - 1).nan_to_num(posinf=0.0, neginf=0.0)
