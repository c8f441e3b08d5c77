"""COCO's annotation files, read and checked: `annotations/instances_SPLIT.json`.

What strangers wrote: everything is looked at before anything is made of it, and what is wrong is
named by its id.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsevit.data.images import MAX_PIXELS
from sparsevit.data.rle import Size, from_counts, from_polygons, parse_counts
from sparsevit.errors import DatasetError
from sparsevit.opening import open_file

OUTSIDE = 1.0  # pixels that COCO's own annotations reach beyond their image, at most
FEWEST_NUMBERS = 6  # of a polygon: x and y of three corners


class Annotation(NamedTuple):
    """One object. category: COCO's id. box: left, top, width, height. polygons or counts: its mask."""

    category: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    polygons: tuple[np.ndarray, ...]
    counts: np.ndarray | None

    def mask(self, size: Size) -> bytes:
        """Run lengths, see rle.py."""
        if self.counts is not None:
            return from_counts(self.counts, size)
        return from_polygons(self.polygons, size)


@dataclass(frozen=True)
class ImageEntry:
    """An image of the table and what is on it."""

    id: int
    name: str
    size: Size
    annotations: list[Annotation] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A whole file: categories by id, rising; images in order of their ids."""

    categories: dict[int, str]
    images: list[ImageEntry]


def read_annotations(path: Path) -> Table:
    """The file's table, kept in memory until it changes. DatasetError names the file and the entry."""
    try:
        facts = path.stat()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    return _read(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, size: int, mtime_ns: int) -> Table:
    try:
        with open_file(path) as file:
            document = json.load(file)
        categories = {_whole(c, "id"): str(c["name"]) for c in document["categories"]}
        images = {_whole(i, "id"): _image(i) for i in document["images"]}
        annotations = document["annotations"]
        for annotation in annotations:
            _add(annotation, categories, images)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} cannot be read as annotations of COCO: {type(error).__name__}: {error}"
        ) from error
    if len(images) < len(document["images"]) or len(categories) < len(document["categories"]):
        raise DatasetError(f"{path}: two images or two categories have the same id.")
    return Table(dict(sorted(categories.items())), [images[key] for key in sorted(images)])


def _image(document: Mapping[str, Any]) -> ImageEntry:
    image = _whole(document, "id")
    size = _whole(document, "height"), _whole(document, "width")
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise DatasetError(f"image {image} has {size[0]} x {size[1]} pixels.")
    return ImageEntry(image, str(document["file_name"]), size)


def _add(
    document: Mapping[str, Any], categories: Mapping[int, str], images: Mapping[int, ImageEntry]
) -> None:
    """Puts an annotation to its image."""
    name = f"annotation {document.get('id')}"
    image, category = _whole(document, "image_id"), _whole(document, "category_id")
    if image not in images:
        raise DatasetError(f"{name} is of the image {image}, which is not in `images`.")
    if category not in categories:
        raise DatasetError(f"{name} is of the category {category}, which is not in `categories`.")
    entry = images[image]
    try:
        found = _annotation(document, category, entry.size)
    except (ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{name} of the image {image} ({entry.name}): {error}") from error
    entry.annotations.append(found)


def _annotation(document: Mapping[str, Any], category: int, size: Size) -> Annotation:
    """ValueError, LookupError or TypeError says what is wrong with it."""
    crowd = document.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ValueError(f"iscrowd is {crowd!r}; it is 0 or 1.")
    left, top, width, height = box = tuple(_number(value) for value in document["bbox"])
    area = _number(document["area"])
    if min(width, height, area) < 0:
        raise ValueError("its box or its area is negative.")
    _check_inside((left, left + width), (top, top + height), "box", size)
    polygons, counts = _segmentation(document["segmentation"], size)
    return Annotation(category, box, area, bool(crowd), polygons, counts)


def _segmentation(value: Any, size: Size) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """(polygons, run lengths), one of which is there."""
    if isinstance(value, Mapping):
        if list(value["size"]) != list(size):
            raise ValueError(f"its mask is of an image of {value['size']}, this is {list(size)}.")
        counts = value["counts"]
        runs = parse_counts(counts) if isinstance(counts, str) else [_run(n) for n in counts]
        if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
            raise ValueError("the run lengths of its mask do not fill the image.")
        return (), np.array(runs, np.uint32)
    polygons = tuple(np.array([_number(n) for n in polygon]) for polygon in value)
    if not polygons:
        raise ValueError("its segmentation is empty.")
    for polygon in polygons:
        if len(polygon) < FEWEST_NUMBERS or len(polygon) % 2:
            raise ValueError("a polygon is x, y of at least three corners.")
        _check_inside(polygon[::2], polygon[1::2], "polygon", size)
    return polygons, None


def _check_inside(xs: Any, ys: Any, what: str, size: Size) -> None:
    height, width = size
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    if min(left, top) < -OUTSIDE or right > width + OUTSIDE or bottom > height + OUTSIDE:
        raise ValueError(
            f"its {what} reaches from ({left:g}, {top:g}) to ({right:g}, {bottom:g}), outside of the "
            f"image of {width} x {height} pixels (width x height)."
        )


def _whole(document: Mapping[str, Any], key: str) -> int:
    value = document[key]
    if type(value) is not int:
        raise DatasetError(f"{key} is {value!r:.40}; it is a whole number.")
    return value


def _run(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("run lengths are whole numbers.")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.40} is no number of pixels.")
    return float(value)
