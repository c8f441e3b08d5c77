"""Everyday scenes in COCO's layout: polygons of every object, crowds as run lengths, sparse ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsevit.data.coco import ALIASES, CATEGORIES
from sparsevit.data.make.imagenet import COLOURS, unit_shape
from sparsevit.data.make.outlines import polygons, run_lengths
from sparsevit.data.make.scene import Scene, ellipse, rectangle
from sparsevit.data.make.street import CLOTHES, draw_traffic

SIDES = (480, 640)  # pixels, where no size is given: images of COCO lie and stand
ID = {name: key for key, name in CATEGORIES.items()}
STREET = {"rider": "person"} | {
    name: name for name in ("person", "car", "truck", "bus", "train", "motorcycle", "bicycle")
}
NOTHING = ("pole", "traffic light", "traffic sign")  # of the street, that has no category here
SHAPES = {"kite": "kite", "sports ball": "disc", "stop sign": "hexagon", "clock": "disc"}
LEAST = 16  # pixels of an object that an annotator would mark
FIRST_ID, STEP = 139, 271  # of images: ids have gaps
CROWD = 0.3  # share of the images that have one


def make(
    out: Path, counts: Mapping[str, int], size: tuple[int, int] | None, seed: int
) -> Iterator[Path]:
    """Writes the set; yields each image when it is there. counts: images of each split."""
    for number, (split, count) in enumerate(counts.items()):
        folder = out / ALIASES[split]
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            height, width = size or (SIDES if rng.random() < 0.7 else SIDES[::-1])
            scene, crowds = _draw(height, width, split, rng)
            image = FIRST_ID + STEP * index + number
            path = folder / f"{image:012}.jpg"
            folder.mkdir(parents=True, exist_ok=True)
            scene.image.save(path, quality=90)
            images.append({"id": image, "file_name": path.name, "height": height, "width": width})
            for found in _annotations(np.asarray(scene.instances), crowds):
                annotations.append({"id": len(annotations) + 1, "image_id": image} | found)
            yield path
        _write(out, split, images, annotations)


def _write(out: Path, split: str, images: list[Any], annotations: list[Any]) -> None:
    categories = [
        {"id": key, "name": name, "supercategory": "thing"} for key, name in CATEGORIES.items()
    ]
    path = out / "annotations" / f"instances_{ALIASES[split]}.json"
    path.parent.mkdir(exist_ok=True)
    document = {"info": {"description": "drawn scenes"}, "licenses": [], "images": images}
    document |= {"annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))


def _annotations(instances: np.ndarray, crowds: set[int]) -> Iterator[dict[str, Any]]:
    """instances: int [H, W], an instance's number or 0."""
    for number in np.unique(instances[instances > 0]).tolist():
        mask = instances == number
        area = int(mask.sum())
        if area < LEAST:
            continue
        rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        left, top = cols[0], rows[0]
        box = [left, top, cols[-1] + 1 - left, rows[-1] + 1 - top]
        outline = None if number in crowds else polygons(mask)
        runs = {"counts": run_lengths(mask), "size": list(mask.shape)} if outline is None else None
        yield {
            "category_id": number // 1000,
            "bbox": [float(value) for value in box],
            "area": float(area),
            "iscrowd": int(number in crowds),
            "segmentation": outline or runs,
        }


def _draw(height: int, width: int, split: str, rng: np.random.Generator) -> tuple[Scene, set[int]]:
    """A scene, and the numbers of its crowds."""
    scene = Scene(height, width, split, rng)
    horizon = rng.uniform(0.35, 0.5) * height
    scene.fill(rectangle(0, 0, width, horizon), 0, "photograph")
    ground = ("gravel", "grass", "brick")[rng.integers(3)]
    scene.fill(rectangle(0, horizon, width, height), 0, ground, scene.shade((125, 125, 110)))
    crowds = {_draw_crowd(scene, horizon)} if scene.chance(CROWD) else set()
    labels = {name: ID[category] for name, category in STREET.items()}
    draw_traffic(scene, horizon, labels | dict.fromkeys(NOTHING, 0))
    for name, shape in SHAPES.items():
        for _ in range(rng.integers(0, 3)):
            _draw_shape(scene, ID[name], shape)
    return scene, crowds


def _draw_crowd(scene: Scene, horizon: float) -> int:
    """People far away, close together: one annotation for all."""
    number, rng = scene.new_instance(ID["person"]), scene.rng
    tall = rng.uniform(0.08, 0.14) * scene.height
    left = rng.uniform(0, 0.6) * scene.width
    for _ in range(rng.integers(6, 12)):
        x, foot = left + rng.uniform(0, 4) * tall, horizon + rng.uniform(0.2, 0.6) * tall
        clothes = scene.shade(CLOTHES[rng.integers(len(CLOTHES))])
        trunk = ellipse(x, foot - 0.4 * tall, 0.16 * tall, 0.42 * tall)
        head = ellipse(x, foot - 0.9 * tall, 0.09 * tall, 0.1 * tall)
        for part, colour in ((trunk, clothes), (head, (200, 160, 135))):
            scene.fill(part, ID["person"], "gravel", colour, number)
    return number


def _draw_shape(scene: Scene, label: int, shape: str) -> None:
    rng = scene.rng
    radius = rng.uniform(0.02, 0.12) * scene.height
    x, y = rng.uniform(0, scene.width), rng.uniform(0, 0.9) * scene.height
    outline = [(x + radius * px, y + radius * py) for px, py in unit_shape(shape)]
    colour = scene.shade(COLOURS[label % len(COLOURS)], 0.15)
    scene.fill(outline, label, "gravel", colour, scene.new_instance(label))
