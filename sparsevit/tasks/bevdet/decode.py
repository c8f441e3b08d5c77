"""The boxes that the maps of the center head say: best cells, then one box a thing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparsevit.data.driving import ATTRIBUTES, CLASS_NAMES, NO_ATTRIBUTE, Boxes
from sparsevit.tasks.bevdet import coding
from sparsevit.tasks.bevdet.center import GROUPS, Outputs
from sparsevit.tasks.bevdet.overlaps import rotated_overlaps
from sparsevit.tasks.bevdet.view import Grid

CANDIDATES = 500  # of a group
LEAST_SCORE = 0.1
KEPT = 83  # of a group: all six stay below the 500 that the benchmark takes
HIGHEST = 10.0  # |z| of a center
# Boxes of a group suppress each other where they overlap more than this once they are enlarged, class
# by class: things seen from above are small beside how far off they are found (scale-NMS). Barriers
# are compared by the distance of their centers instead.
OVERLAP = (0.2, 0.2, 0.2, None, 0.2, 0.5)
SCALES = ((1.0,), (0.7, 0.7), (0.4, 0.55), (1.0,), (1.0, 1.0), (4.5, 9.0))
BARRIERS_APART = 1.0  # metres
MOVING = 0.2  # m/s, from which on a thing moves
# The network tells no attributes: what is most frequent, at rest and moving.
AT_REST = {
    "car": "vehicle.parked", "truck": "vehicle.parked", "construction_vehicle": "vehicle.parked",
    "bus": "vehicle.stopped", "trailer": "vehicle.parked", "motorcycle": "cycle.without_rider",
    "bicycle": "cycle.without_rider", "pedestrian": "pedestrian.standing",
}  # fmt: skip
IN_MOTION = dict.fromkeys(AT_REST, "vehicle.moving") | {
    "motorcycle": "cycle.with_rider", "bicycle": "cycle.with_rider",
    "pedestrian": "pedestrian.moving",
}  # fmt: skip


def decode(outputs: Outputs, sample: int, frame: str, grid: Grid) -> tuple[Boxes, np.ndarray]:
    """(boxes in the map's frame, scores [N]) of one sample. frame: one of coding.FRAMES."""
    found = [_group(number, maps, sample, frame, grid) for number, maps in enumerate(outputs)]
    parts = zip(*(boxes.parts for boxes, _ in found), strict=True)
    return Boxes(*map(np.concatenate, parts)), np.concatenate([scores for _, scores in found])


def _group(
    number: int, maps: dict[str, Tensor], sample: int, frame: str, grid: Grid
) -> tuple[Boxes, np.ndarray]:
    heat = maps["heatmap"][sample].float().sigmoid()
    scores, best = heat.flatten().topk(min(CANDIDATES, heat.numel()))
    kinds, cells = best // heat[0].numel(), best % heat[0].numel()
    at = {name: part[sample].float().flatten(1)[:, cells].T for name, part in maps.items()}
    x, y = cells % grid.cells, cells // grid.cells
    centers = torch.cat(
        [(torch.stack([x, y], 1) + at["reg"]) * grid.cell - grid.reach, at["height"]], 1
    )
    turn = torch.atan2(at["rot"][:, 0], at["rot"][:, 1])
    columns = [centers, at["dim"].exp(), turn[:, None], at["vel"], scores[:, None], kinds[:, None]]
    table = torch.cat(columns, 1).double().cpu().numpy()
    good = (table[:, 9] >= LEAST_SCORE) & (np.abs(table[:, 2]) <= HIGHEST)
    table = table[good & np.isfinite(table).all(1)]
    local = table[:, 10].astype(np.int64)
    boxes = Boxes.upright(
        table[:, :3],
        coding.sizes(frame, table[:, 3:6]),
        coding.angles(frame, table[:, 6]),
        table[:, 7:9],
        np.array([CLASS_NAMES.index(name) for name in GROUPS[number]])[local],
        np.full(len(table), NO_ATTRIBUTE),
    )
    kept = _suppress(number, boxes, local)
    boxes = boxes.chosen(kept)
    boxes.attributes[:] = _attributes(boxes)
    return boxes, table[kept, 9]


def _suppress(number: int, boxes: Boxes, local: np.ndarray) -> np.ndarray:
    """The boxes to keep, the best first, as they come. local: their class within the group."""
    scale = np.array(SCALES[number])[local][:, None]
    spots, sizes = boxes.centers[:, :2], boxes.sizes[:, 1::-1] * scale
    flat = np.concatenate([spots, sizes, boxes.yaws[:, None]], 1)
    reach = np.hypot(*sizes.T) / 2
    kept: list[int] = []
    left = np.arange(len(boxes))
    while len(left) and len(kept) < KEPT:
        first, left = left[0], left[1:]
        kept.append(int(first))
        apart = np.hypot(*(spots[left] - spots[first]).T)
        if (limit := OVERLAP[number]) is None:
            left = left[apart > BARRIERS_APART]
            continue
        near = np.flatnonzero(apart < reach[left] + reach[first])
        same = near[rotated_overlaps(flat[first], flat[left[near]]) > limit]
        left = np.delete(left, same)
    return np.array(kept, np.int64)


def _attributes(boxes: Boxes) -> list[int]:
    moving = np.linalg.norm(boxes.velocities, axis=1) > MOVING
    names = [
        (IN_MOTION if fast else AT_REST).get(CLASS_NAMES[kind])
        for kind, fast in zip(boxes.classes, moving, strict=True)
    ]
    return [NO_ATTRIBUTE if name is None else ATTRIBUTES.index(name) for name in names]


def detections(
    outputs: Outputs, frame: str, grid: Grid, to_global: Sequence[np.ndarray]
) -> list[tuple[Boxes, np.ndarray]]:
    """Of every sample, in the global frame. to_global [4, 4]: from the map's frame."""
    found = [decode(outputs, i, frame, grid) for i in range(len(to_global))]
    return [
        (boxes.moved(way), scores) for (boxes, scores), way in zip(found, to_global, strict=True)
    ]
