"""Classification in ImageNet's layout: `{train,val}/WNID/*.JPEG`, shapes over photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from sparsevit.data.make.materials import Colour
from sparsevit.data.make.scene import Outline, Scene, rectangle
from sparsevit.errors import ConfigError

SIDES = (160, 320)  # pixels, where no size is given: images of ImageNet differ in size
GREY = 16  # one in so many images has a single channel, as a few of ImageNet's have
COLOURS: tuple[Colour, ...] = (
    (220, 40, 40), (40, 170, 60), (50, 80, 220), (235, 210, 50), (200, 60, 200),
    (60, 200, 210), (245, 245, 245), (25, 25, 25), (240, 140, 30), (140, 90, 50),
)  # fmt: skip
SHAPES = ("disc", "triangle", "square", "star", "cross", "arrow", "bolt", "ell", "kite", "hexagon")
MAX_CLASSES = len(SHAPES) * len(COLOURS) * 10


def make(
    out: Path, counts: Mapping[str, int], size: tuple[int, int] | None, seed: int, classes: int = 10
) -> Iterator[Path]:
    """Writes the set; yields each image when it is there.

    counts: images of each split; they go round the classes. A class is a shape in a colour, a number
    of times; below ten classes the shape alone tells it, and so does the colour.
    """
    if not 1 <= classes <= MAX_CLASSES:
        raise ConfigError(f"imagenet has 1 to {MAX_CLASSES} classes here, not {classes}.")
    if min(counts.values()) < classes:
        raise ConfigError(f"each split needs an image of each of the {classes} classes.")
    for number, (split, count) in enumerate(counts.items()):
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            kind = index % classes
            folder = out / split / wnid(kind)
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{wnid(kind)}_{index}" if split == "train" else f"ILSVRC2012_val_{index + 1:08}"
            image = _draw(kind, split, size or tuple(rng.integers(*SIDES, 2).tolist()), rng).image
            path = folder / f"{name}.JPEG"
            image.convert("L" if rng.random() < 1 / GREY else "RGB").save(path, "JPEG", quality=90)
            yield path


def wnid(kind: int) -> str:
    """The folder of a class, in the form of a WordNet id; these are no entries of WordNet."""
    return f"n{90_000_000 + kind:08}"


def _draw(kind: int, split: str, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    height, width = size
    scene = Scene(height, width, split, rng)
    scene.fill(rectangle(0, 0, width, height), 0, "photograph")
    colour = COLOURS[(kind + kind // len(SHAPES)) % len(COLOURS)]
    number = 1 + kind // (len(SHAPES) * len(COLOURS))
    for _ in range(number):
        radius = min(size) * rng.uniform(0.25, 0.42) / math.sqrt(number)
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        turned = _turned(unit_shape(SHAPES[kind % len(SHAPES)]), rng.uniform(-0.3, 0.3))
        outline = [(x + radius * px, y + radius * py) for px, py in turned]
        scene.fill(outline, 0, "gravel", scene.shade(colour, 0.1))
    return scene


def unit_shape(name: str) -> Outline:
    """A shape's outline round the origin, at most 1 from it."""
    third = 1 / 3
    outlines: dict[str, Outline] = {
        "disc": _star(36, 1),
        "triangle": _star(3, 1),
        "square": _star(4, 1, math.pi / 4),
        "star": _star(10, 0.42),
        "hexagon": _star(6, 1),
        "kite": [(0, -1), (0.5, -0.3), (0, 1), (-0.5, -0.3)],
        "arrow": [(0, -1), (0.8, 0), (0.3, 0), (0.3, 0.9), (-0.3, 0.9), (-0.3, 0), (-0.8, 0)],
        "ell": [(-0.7, -0.7), (-0.2, -0.7), (-0.2, 0.2), (0.7, 0.2), (0.7, 0.7), (-0.7, 0.7)],
        "bolt": [(0.2, -1), (-0.6, 0.1), (-0.05, 0.1), (-0.2, 1), (0.6, -0.2), (0.05, -0.2)],
        "cross": [
            (-third, -0.9), (third, -0.9), (third, -third), (0.9, -third), (0.9, third),
            (third, third), (third, 0.9), (-third, 0.9), (-third, third), (-0.9, third),
            (-0.9, -third), (-third, -third),
        ],
    }  # fmt: skip
    return outlines[name]


def _star(corners: int, inner: float, turn: float = 0.0) -> Outline:
    """Corners on the unit circle, every second one at `inner` of it; the first points up."""
    radii = [inner if i % 2 and inner != 1 else 1.0 for i in range(corners)]
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True)]


def _turned(outline: Outline, angle: float) -> Outline:
    cos, sin = math.cos(angle), math.sin(angle)
    return [(cos * x - sin * y, sin * x + cos * y) for x, y in outline]
