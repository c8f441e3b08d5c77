"""Mask R-CNN as mmdet 2 and 3 compute it, written down plainly from its definition, and a checkpoint.

Nothing here is taken from torchvision or from the library. Boxes are left, top, right, bottom.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.swin.checkpoints.save import backbone_to_tensors
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

STRIDES = (4, 8, 16, 32, 64)
CHANNELS, BOX_CHANNELS, MASK_CHANNELS, MASK_LAYERS = 16, 24, 12, 2
SHAPE = SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 2))


def backbone() -> SparseSwin:
    torch.manual_seed(0)
    return SparseSwin(SHAPE)


def head_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """The weights of everything but the backbone, by mmdet's names; each has a bias."""
    c, m = CHANNELS, MASK_CHANNELS
    shapes: dict[str, tuple[int, ...]] = {
        "rpn_head.rpn_conv": (c, c, 3, 3),
        "rpn_head.rpn_cls": (3, c, 1, 1),
        "rpn_head.rpn_reg": (12, c, 1, 1),
        "roi_head.bbox_head.shared_fcs.0": (BOX_CHANNELS, c * 49),
        "roi_head.bbox_head.shared_fcs.1": (BOX_CHANNELS, BOX_CHANNELS),
        "roi_head.bbox_head.fc_cls": (classes + 1, BOX_CHANNELS),
        "roi_head.bbox_head.fc_reg": (4 * classes, BOX_CHANNELS),
        "roi_head.mask_head.upsample": (m, m, 2, 2),
        "roi_head.mask_head.conv_logits": (classes, m, 1, 1),
    }
    for layer in range(MASK_LAYERS):
        shapes[f"roi_head.mask_head.convs.{layer}.conv"] = (m, m if layer else c, 3, 3)
    for stage, dim in enumerate(SHAPE.dims):
        shapes[f"neck.lateral_convs.{stage}.conv"] = (c, dim, 1, 1)
        shapes[f"neck.fpn_convs.{stage}.conv"] = (c, c, 3, 3)
    return shapes


def tensors(classes: int = 3) -> dict[str, Tensor]:
    """A whole detector, random, with scores and boxes that differ widely."""
    found = backbone_to_tensors(backbone(), dialect="openmmlab", prefix="backbone.")
    generator = torch.Generator().manual_seed(1)
    for name, shape in head_shapes(classes).items():
        spread = (0.3 if "cls" in name else 1.4) / math.sqrt(math.prod(shape[1:]))
        found[f"{name}.weight"] = spread * torch.randn(shape, generator=generator)
        biases = shape[1] if name.endswith("upsample") else shape[0]
        found[f"{name}.bias"] = 0.1 * torch.randn(biases, generator=generator)
    return found


def write(path: Path, classes: int = 3, **changes: Any) -> Path:
    """A checkpoint as mmdet's runner saves it. changes: tensors by name, None leaves one out."""
    state = tensors(classes) | changes
    state = {key: tensor for key, tensor in state.items() if tensor is not None}
    torch.save({"meta": {"epoch": 36}, "state_dict": state}, path)
    return path


class Detector:
    """What is behind the backbone, of a state dict. size: (height, width) of the input."""

    def __init__(self, state: dict[str, Tensor], size: tuple[int, int]) -> None:
        self.state, self.size = state, size

    def conv(self, name: str, x: Tensor, padding: int = 0) -> Tensor:
        return F.conv2d(
            x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=padding
        )

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """Top down by the nearest neighbour; the fifth map is every second pixel of the fourth."""
        maps = [self.conv(f"neck.lateral_convs.{i}.conv", x) for i, x in enumerate(features)]
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], size=maps[i - 1].shape[-2:])
        maps = [self.conv(f"neck.fpn_convs.{i}.conv", x, 1) for i, x in enumerate(maps)]
        return [*maps, maps[-1][:, :, ::2, ::2]]

    def proposals(self, maps: list[Tensor]) -> Tensor:
        """Of one image: [n, 4], at most 1,000 with an area, NMS level by level."""
        boxes, scores, levels = [], [], []
        for level, (stride, x) in enumerate(zip(STRIDES, maps, strict=True)):
            hidden = self.conv("rpn_head.rpn_conv", x, 1).relu()
            score = self.conv("rpn_head.rpn_cls", hidden)[0].permute(1, 2, 0).flatten().sigmoid()
            delta = self.conv("rpn_head.rpn_reg", hidden)[0].permute(1, 2, 0).reshape(-1, 4)
            anchors = grid(*x.shape[-2:], stride)
            best = score.sort(descending=True, stable=True).indices[:1000]
            boxes.append(clip(decode(anchors[best], delta[best], (1, 1, 1, 1)), self.size))
            scores.append(score[best])
            levels.append(torch.full((len(best),), level))
        every = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        there = ((every[0][:, 2:] - every[0][:, :2]) > 0).all(1)  # min_bbox_size 0
        every = tuple(part[there] for part in every)
        return every[0][nms_per_group(*every, 0.7)[:1000]]

    def detections(self, maps: list[Tensor], proposals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(boxes [n, 4], scores [n], classes [n]), at most 100; the background is the last class."""
        x = pool(maps, proposals, 7).flatten(1)
        for layer in range(2):
            x = self.linear(f"roi_head.bbox_head.shared_fcs.{layer}", x).relu()
        shares = self.linear("roi_head.bbox_head.fc_cls", x).softmax(-1)[:, :-1]
        deltas = self.linear("roi_head.bbox_head.fc_reg", x).unflatten(1, (-1, 4))
        boxes, scores, classes = [], [], []
        for kind in range(shares.shape[1]):
            some = shares[:, kind] > 0.05
            found = decode(proposals[some], deltas[some, kind], (0.1, 0.1, 0.2, 0.2))
            boxes.append(clip(found, self.size))
            scores.append(shares[some, kind])
            classes.append(torch.full((int(some.sum()),), kind))
        every = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
        kept = nms_per_group(*every, 0.5)[:100]
        return tuple(part[kept] for part in every)

    def masks(self, maps: list[Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        """Probabilities [n, 28, 28]."""
        x = pool(maps, boxes, 14)
        for layer in range(MASK_LAYERS):
            x = self.conv(f"roi_head.mask_head.convs.{layer}.conv", x, 1).relu()
        name = "roi_head.mask_head.upsample"
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        x = F.conv_transpose2d(x, weight, bias, stride=2).relu()
        logits = self.conv("roi_head.mask_head.conv_logits", x)
        return logits[torch.arange(len(classes)), classes].sigmoid()


def grid(rows: int, cols: int, stride: int) -> Tensor:
    """Anchors [rows * cols * 3, 4]: row by row, at each place the ratios .5, 1, 2 of height to width,
    8 strides a side, around the corner of the cell."""
    anchors = []
    for row in range(rows):
        for col in range(cols):
            for ratio in (0.5, 1.0, 2.0):
                width, height = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                x, y = col * stride, row * stride
                anchors.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return torch.tensor(anchors)


def decode(boxes: Tensor, deltas: Tensor, stds: tuple[float, ...]) -> Tensor:
    """Deltas times their standard deviations, moved by shares of a side, scaled by at most 1000/16."""
    dx, dy, dw, dh = (deltas * torch.tensor(stds)).unbind(-1)
    most = math.log(1000 / 16)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = (
        (boxes[:, 0] + boxes[:, 2]) / 2 + dx * width,
        (boxes[:, 1] + boxes[:, 3]) / 2 + dy * height,
    )
    w, h = width * dw.clamp(-most, most).exp(), height * dh.clamp(-most, most).exp()
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    most = torch.tensor([size[1], size[0]] * 2, dtype=boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), most)


def nms_per_group(boxes: Tensor, scores: Tensor, groups: Tensor, limit: float) -> Tensor:
    """Indices of what is kept, the best first: none overlaps a better one of its group by more."""
    order = scores.sort(descending=True, stable=True).indices
    alive = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for i in order.tolist():
        if not alive[i]:
            continue
        kept.append(i)
        alive &= ~((iou(boxes[i], boxes) > limit) & (groups == groups[i]))
    return torch.tensor(kept, dtype=torch.int64)


def iou(box: Tensor, boxes: Tensor) -> Tensor:
    sides = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(
        min=0
    )
    inside = sides.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return inside / (areas + (box[2:] - box[:2]).prod() - inside)


def pool(maps: list[Tensor], boxes: Tensor, size: int) -> Tensor:
    """RoIAlign of mmcv on the first four maps: finest_scale 56, aligned, sampling_ratio 0."""
    pooled = []
    for box in boxes:
        side = math.sqrt(float((box[2:] - box[:2]).prod()))
        level = min(3, max(0, math.floor(math.log2(side / 56 + 1e-6))))
        pooled.append(align(maps[level][0], box / STRIDES[level], size))
    return torch.stack(pooled)


def align(x: Tensor, box: Tensor, size: int) -> Tensor:
    """One region [C, size, size]: the mean of as many samples a cell as it has pixels, each at the
    pixels' centers (half a pixel less), bilinear, with the border repeated for up to one pixel."""
    left, top, right, bottom = (box - 0.5).tolist()

    def weights(start: float, stop: float, length: int) -> Tensor:
        """[size, length]: what each of the map's pixels adds to a cell."""
        cell = (stop - start) / size
        samples = math.ceil((stop - start) / size)  # none of a region without an area: zeros
        matrix = torch.zeros(size, length)
        for i in range(size):
            for k in range(samples):
                at = start + i * cell + (k + 0.5) * cell / samples
                if not -1 <= at <= length:
                    continue
                at = max(0.0, at)
                low = min(int(at), length - 1)
                high, share = min(low + 1, length - 1), at - low if low < length - 1 else 0.0
                matrix[i, low] += (1 - share) / samples
                matrix[i, high] += share / samples
        return matrix

    rows, cols = weights(top, bottom, x.shape[1]), weights(left, right, x.shape[2])
    return torch.einsum("ih,chw,jw->cij", rows, x, cols)


def paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """bool [H, W]: the mask, bilinear with zeros around it, looked up at the center of each pixel."""
    m = mask.shape[0]
    padded = F.pad(mask, (1, 1, 1, 1))
    found = torch.zeros(size, dtype=torch.bool)
    left, top, right, bottom = box.tolist()
    for row in range(size[0]):
        for col in range(size[1]):
            x = (col + 0.5 - left) / (right - left) * m + 0.5  # pixel i of `padded` is at i
            y = (row + 0.5 - top) / (bottom - top) * m + 0.5
            if 0 <= x < m + 1 and 0 <= y < m + 1:
                i, j, a, b = int(y), int(x), y % 1, x % 1
                value = (1 - a) * ((1 - b) * padded[i, j] + b * padded[i, j + 1])
                value += a * ((1 - b) * padded[i + 1, j] + b * padded[i + 1, j + 1])
                found[row, col] = value >= 0.5
    return found
