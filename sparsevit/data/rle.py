"""Masks as run lengths, the way COCO stores them, by pycocotools (extra `detection`).

A mask is the compressed counts, bytes, of its runs down the columns; its size is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsevit.errors import ConfigError

Size = tuple[int, int]  # (height, width)


def mask_tools() -> Any:
    """pycocotools.mask. ConfigError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ConfigError(
            "instance segmentation needs pycocotools: pip install 'sparsevit[detection]'."
        ) from error
    return mask


def encode(masks_NHW: np.ndarray) -> tuple[bytes, ...]:
    """Masks of 0 and 1, or bool."""
    if not len(masks_NHW):
        return ()
    columns = np.asfortranarray(np.moveaxis(masks_NHW, 0, -1).astype(np.uint8))
    return tuple(run["counts"] for run in mask_tools().encode(columns))


def decode(masks: Sequence[bytes], size: Size) -> np.ndarray:
    """uint8 [N, H, W] of 0 and 1."""
    if not masks:
        return np.zeros((0, *size), np.uint8)
    return np.moveaxis(mask_tools().decode(as_objects(masks, size)), -1, 0)


def as_objects(masks: Sequence[bytes], size: Size) -> list[dict[str, Any]]:
    """In the form that pycocotools takes."""
    return [{"size": list(size), "counts": counts} for counts in masks]


def from_polygons(polygons: Sequence[np.ndarray], size: Size) -> bytes:
    """All polygons of an object together, each x, y, x, y, ... in pixels, by COCO's own rule."""
    tools = mask_tools()
    return tools.merge(tools.frPyObjects([p.tolist() for p in polygons], *size))["counts"]


def from_counts(counts: np.ndarray, size: Size) -> bytes:
    """Run lengths, of zeros first; they must fill the mask."""
    return mask_tools().frPyObjects({"size": list(size), "counts": counts.tolist()}, *size)[
        "counts"
    ]


def parse_counts(text: str) -> list[int]:
    """Run lengths out of COCO's compressed form; ValueError where it is damaged.

    Each number is in digits of five bits, the lowest first, 48 added; the sixth bit says that more
    follow. From the fourth on a number is the difference to the last but one. pycocotools would believe
    whatever a stranger's file says.
    """
    counts: list[int] = []
    number, shift = 0, 0
    for character in text.encode():
        digit = character - 48
        if not 0 <= digit < 64 or shift > 60:
            raise ValueError("no run lengths")
        number |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number, shift = 0, 0
    if shift:
        raise ValueError("run lengths that end in the middle of a number")
    return counts
