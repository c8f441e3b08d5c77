"""Which annotations the detections of one image match, as pycocotools has it; see coco_ap.py.

Detections are taken by falling score. Each takes the annotation of its category with the highest IoU
that is left and counts; only where there is none that is high enough one that does not count: of
another size than is looked at, or a crowd, which may be matched any number of times. A detection that
matches such a one is ignored, and so is one that matches nothing and has another size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sparsevit.data.instances import Instances
from sparsevit.data.rle import as_objects, mask_tools
from sparsevit.metrics.coco_ap import AREAS, BITS, FLAGS, MOST, OF, THRESHOLDS, Table

LARGEST_THRESHOLD = 1 - 1e-10
RANGES = np.array(list(AREAS.values()))


class Detections(NamedTuple):
    """What was found in one image, in its own pixels.

    scores fp32 [n]. classes [n]. boxes float64 [n, 4]: left, top, width, height. masks: run lengths, of
    the image's size.
    """

    scores: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    masks: tuple[bytes, ...]


def image_state(truth: Instances, found: Detections) -> list[Any]:
    """The state of one image."""
    annotations, tables = [], []
    for category in np.union1d(truth.classes, found.classes).tolist():
        mine = truth.chosen(truth.classes == category)
        if len(mine):
            counts = (~_ignored(mine)).sum(1)
            annotations.append([category, *counts.tolist()])
        best = np.flatnonzero(found.classes == category)
        best = best[np.argsort(-found.scores[best], kind="stable")][:MOST]
        if len(best):
            tables.append(_table(mine, found, best, category))
    table = Table.joined(tables).packed() if tables else ""
    return [annotations, table]


def _table(truth: Instances, found: Detections, best: np.ndarray, category: int) -> Table:
    tools, crowd = mask_tools(), truth.crowd.astype(np.uint8)
    masks = as_objects([found.masks[i] for i in best], truth.size)
    theirs = as_objects(truth.masks, truth.size)
    boxes = found.boxes[best]
    areas = (boxes[:, 2] * boxes[:, 3], tools.area(masks).astype(np.float64))
    pairs = ((boxes, truth.boxes), (masks, theirs))
    flags = np.zeros((len(OF), len(AREAS), 2, len(best)), BITS)
    for of, (ours, wanted) in enumerate(pairs):
        ious = np.zeros((len(best), 0))
        if len(truth):
            ious = np.asarray(tools.iou(ours, wanted, crowd), np.float64)
        flags[of] = _match(ious, _ignored(truth), truth.crowd, _outside(areas[of]))
    assert flags.size == FLAGS * len(best)
    images = np.full(len(best), truth.image_id)
    return Table(images, np.full(len(best), category), found.scores[best], flags)


def _ignored(truth: Instances) -> np.ndarray:
    """bool [areas, annotations]"""
    return _outside(truth.areas) | truth.crowd


def _outside(areas: np.ndarray) -> np.ndarray:
    """Which have another size than each of AREAS: bool [areas, n]."""
    return (areas < RANGES[:, :1]) | (areas > RANGES[:, 1:])


def _match(
    ious: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, outside: np.ndarray
) -> np.ndarray:
    """Flags [areas, 2, detections] of detections in falling order of score.

    ious [detections, annotations]. ignored [areas, annotations]. outside [areas, detections].
    """
    limits = np.minimum(THRESHOLDS, LARGEST_THRESHOLD)
    shape = (len(AREAS), len(THRESHOLDS), ious.shape[1])
    free = np.ones(shape, bool)
    matched = np.zeros((*shape[:2], len(ious)), bool)
    passed = matched.copy()
    for detection, row in enumerate(ious if ious.shape[1] else ()):
        fits = (free | crowd) & (row >= limits[:, None])
        counting = fits & ~ignored[:, None]
        chosen = np.where(counting.any(-1, keepdims=True), counting, fits)
        order = np.lexsort((-np.arange(len(row)), -row))  # of equal ones pycocotools takes the last
        at = order[chosen[..., order].argmax(-1)]
        hit = chosen.any(-1)
        areas, thresholds = np.nonzero(hit)
        free[areas, thresholds, at[hit]] = False
        matched[..., detection] = hit
        passed[..., detection] = hit & np.take_along_axis(ignored, at, axis=1)
    passed |= ~matched & outside[:, None]
    weights = 1 << np.arange(len(THRESHOLDS))
    packed = [(flag * weights[:, None]).sum(1) for flag in (matched, passed)]
    return np.stack(packed, axis=1).astype(BITS)
