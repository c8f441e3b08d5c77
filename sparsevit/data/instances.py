"""The objects of one image: classes, boxes and masks, and what training does to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparsevit.data.rle import decode, encode

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

SMALLEST = 1.0  # pixels of a side: of an object that is cut smaller nothing can be learned


@dataclass(frozen=True, eq=False)
class Instances:
    """n objects of an image of `size` = (height, width).

    image_id: the data set's. classes int64 [n]. boxes float64 [n, 4]: left, top, width, height, in
    pixels. areas float64 [n]: as annotated, by which objects count as small or large. crowd bool
    [n]: a group that was not taken apart; no object to be learned. masks: run lengths, see rle.py.
    """

    image_id: int
    size: tuple[int, int]
    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    masks: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.classes)

    def chosen(self, which: np.ndarray) -> Instances:
        """Those of a mask, bool [n]."""
        masks = tuple(mask for mask, kept in zip(self.masks, which, strict=True) if kept)
        return replace(
            self,
            classes=self.classes[which],
            boxes=self.boxes[which],
            areas=self.areas[which],
            crowd=self.crowd[which],
            masks=masks,
        )

    @property
    def corners(self) -> np.ndarray:
        """Boxes as left, top, right, bottom, float64 [n, 4]."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], 1)

    def bitmaps(self) -> np.ndarray:
        """uint8 [n, H, W] of 0 and 1."""
        return decode(self.masks, self.size)

    def cut(self, box: Box, size: tuple[int, int]) -> Instances:
        """What of the objects lies in a part of the image, with that part brought to `size`.

        Objects of which less than a pixel is left are left out.
        """
        left, top, right, bottom = box
        scale = np.array([size[1] / (right - left), size[0] / (bottom - top)] * 2)
        corners = (self.corners - [left, top, left, top]) * scale
        corners = corners.clip(0, [size[1], size[0]] * 2)
        sides = corners[:, 2:] - corners[:, :2]
        kept = (sides >= SMALLEST).all(1)
        some = self.chosen(kept)
        rows = _nearest(top, bottom, size[0], self.size[0])
        cols = _nearest(left, right, size[1], self.size[1])
        masks = encode(some.bitmaps()[:, rows][:, :, cols])
        boxes = np.concatenate([corners[:, :2], sides], 1)[kept]
        areas = some.areas * scale[0] * scale[1]
        return replace(some, size=size, boxes=boxes, areas=areas, masks=masks)

    def mirrored(self) -> Instances:
        """Left to right."""
        boxes = self.boxes.copy()
        boxes[:, 0] = self.size[1] - boxes[:, 0] - boxes[:, 2]
        return replace(self, boxes=boxes, masks=encode(self.bitmaps()[:, :, ::-1]))


def _nearest(start: float, stop: float, count: int, length: int) -> np.ndarray:
    """Of `count` pixels evenly over start to stop, the source's pixels at their centers."""
    places = start + (np.arange(count) + 0.5) * (stop - start) / count
    return np.floor(places).astype(np.int64).clip(0, length - 1)
