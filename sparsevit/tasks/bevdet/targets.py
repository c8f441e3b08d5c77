"""What the maps of the center head should be, and how far off they are.

Zhou et al., 2019 (arXiv 1904.07850): a Gaussian around each center, whose radius is such that a box
as far off still overlaps; at the centers themselves the parts of the box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.data.driving import CLASS_NAMES, Frame
from sparsevit.tasks.bevdet import coding
from sparsevit.tasks.bevdet.center import GROUPS, PARTS, Outputs
from sparsevit.tasks.bevdet.view import Grid

OVERLAP = 0.1
LEAST_RADIUS = 2
BOX_WEIGHT = 0.25
PART_WEIGHTS = {"vel": 0.2}
NEARLY = 1e-4  # probabilities stay so far from 0 and 1


@dataclass(frozen=True)
class GroupTarget:
    """Of one group and sample: heat [classes, Y, X]; of the N boxes their cells [N] among Y * X, and
    their parts [N, 10] in the order of PARTS, NaN where the annotation does not know."""

    heat: np.ndarray
    cells: np.ndarray
    parts: np.ndarray


def group_target(group: Sequence[str], frame: str, grid: Grid, sample: Frame) -> GroupTarget:
    """frame: one of coding.FRAMES. Boxes without lidar or radar points, which nobody may see, and
    those beyond the map are left out."""
    boxes = sample.boxes.chosen(sample.points > 0).moved(coding.from_ego(frame, sample))
    kinds = [CLASS_NAMES.index(name) for name in group]
    place = (boxes.centers[:, :2] + grid.reach) / grid.cell
    inside = (place >= 0).all(1) & (place < grid.cells).all(1)
    boxes = boxes.chosen(chosen := np.isin(boxes.classes, kinds) & inside)
    place = place[chosen]
    corner = np.floor(place).astype(np.int64)
    heat = np.zeros((len(group), grid.cells, grid.cells), np.float32)
    for kind, cell, size in zip(boxes.classes, corner, boxes.sizes[:, :2] / grid.cell, strict=True):
        _draw(heat[kinds.index(kind)], cell, max(LEAST_RADIUS, int(radius(*size))))
    turn = coding.angles(frame, boxes.yaws)
    parts = np.concatenate(
        [
            place - corner,
            boxes.centers[:, 2:],
            np.log(coding.sizes(frame, boxes.sizes)),
            np.stack([np.sin(turn), np.cos(turn)], 1),
            boxes.velocities[:, :2],
        ],
        axis=1,
    )
    return GroupTarget(heat, corner[:, 1] * grid.cells + corner[:, 0], parts.astype(np.float32))


def radius(width: float, length: float) -> float:
    """How far, in cells, both corners of a box may be off for it to overlap by OVERLAP: the least of
    the three ways it can be off (each a root of a quadratic; the released code's roots)."""
    area, around = width * length, width + length
    equations = (
        (1.0, around, area * (1 - OVERLAP) / (1 + OVERLAP)),
        (4.0, 2 * around, (1 - OVERLAP) * area),
        (4 * OVERLAP, -2 * OVERLAP * around, (OVERLAP - 1) * area),
    )
    return min((b + math.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in equations)


def _draw(heat: np.ndarray, cell: np.ndarray, reach: int) -> None:
    """Raises a map to a Gaussian around a cell (x, y)."""
    steps = np.arange(-reach, reach + 1)
    bell = np.exp(-(steps**2) / (2 * ((2 * reach + 1) / 6) ** 2))
    x, y = int(cell[0]), int(cell[1])
    rows = slice(max(0, y - reach), min(heat.shape[0], y + reach + 1))
    columns = slice(max(0, x - reach), min(heat.shape[1], x + reach + 1))
    whole = np.outer(bell, bell)[
        rows.start - y + reach : rows.stop - y + reach,
        columns.start - x + reach : columns.stop - x + reach,
    ]
    np.maximum(heat[rows, columns], whole, out=heat[rows, columns])


def center_loss(outputs: Outputs, frame: str, grid: Grid, samples: Sequence[Frame]) -> Tensor:
    """The sum over the groups: focal loss of the heat maps, and .25 times L1 of the boxes' parts."""
    total = outputs[0]["heatmap"].new_zeros((), dtype=torch.float32)
    for group, maps in zip(GROUPS, outputs, strict=True):
        targets = [group_target(group, frame, grid, sample) for sample in samples]
        total = total + _heat_loss(maps["heatmap"], targets) + BOX_WEIGHT * _box_loss(maps, targets)
    return total


def _heat_loss(logits: Tensor, targets: Sequence[GroupTarget]) -> Tensor:
    """Law and Deng, 2018 (arXiv 1808.01244), over the number of centers."""
    wanted = torch.from_numpy(np.stack([t.heat for t in targets])).to(logits.device)
    found = logits.float().sigmoid().clamp(NEARLY, 1 - NEARLY)
    center = wanted == 1
    right = center * found.log() * (1 - found) ** 2
    wrong = (~center) * (1 - found).log() * found**2 * (1 - wanted) ** 4
    return -(right + wrong).sum() / center.sum().clamp(min=1)


def _box_loss(maps: dict[str, Tensor], targets: Sequence[GroupTarget]) -> Tensor:
    """Over the number of boxes; what an annotation does not know counts nothing."""
    device = maps["reg"].device
    cells = torch.from_numpy(np.concatenate([t.cells for t in targets])).to(device)
    sample = torch.from_numpy(np.repeat(np.arange(len(targets)), [len(t.cells) for t in targets]))
    parts = torch.from_numpy(np.concatenate([t.parts for t in targets])).to(device)
    loss = maps["reg"].new_zeros((), dtype=torch.float32)
    for name, wanted in zip(PARTS, parts.split([*PARTS.values()], 1), strict=True):
        found = maps[name].float().flatten(2)[sample.to(device), :, cells]
        known = ~wanted.isnan()
        off = F.l1_loss(found[known], wanted[known], reduction="sum")
        loss = loss + PART_WEIGHTS.get(name, 1.0) * off
    return loss / max(1, len(cells))
