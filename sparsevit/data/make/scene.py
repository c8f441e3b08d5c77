"""A picture and its labels, drawn together: one outline fills both, so labels are exact."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sparsevit.data.make.materials import Colour, photograph, shade, tinted

Outline = Sequence[tuple[float, float]]
"""Corners (x, y) in pixels."""
INSTANCES = 1000  # an instance's number is its label * 1000 + k


class Scene:
    """image RGB, labels (8 bits) and instances (an instance's number, else its label).

    split: whose material is used. Later outlines lie over earlier ones.
    """

    def __init__(self, height: int, width: int, split: str, rng: np.random.Generator) -> None:
        from PIL import Image

        self.height, self.width, self.split, self.rng = height, width, split, rng
        self.image = Image.new("RGB", (width, height))
        self.labels = Image.new("L", (width, height))
        self.instances = Image.new("I", (width, height))
        self._count: Counter[int] = Counter()

    def new_instance(self, label: int) -> int:
        """The number of the label's next instance."""
        self._count[label] += 1
        return label * INSTANCES + self._count[label] - 1

    def fill(
        self,
        outline: Outline,
        label: int,
        material: str = "gravel",
        colour: Colour | None = None,
        instance: int | None = None,
    ) -> None:
        """Fills an outline with a texture tinted by `colour`; with "photograph", by a photograph."""
        from PIL import Image, ImageDraw

        box = self._box(outline)
        if box is None:
            return
        left, top, right, bottom = box
        mask = Image.new("1", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline], fill=1)
        if material == "photograph":
            paint = photograph(self.split, mask.size, self.rng)
        else:
            paint = tinted(material, colour or (128, 128, 128), self.split, mask.size, self.rng)
        self.image.paste(paint, box, mask)
        self.labels.paste(label, box, mask)
        self.instances.paste(label if instance is None else instance, box, mask)

    def _box(self, outline: Outline) -> tuple[int, int, int, int] | None:
        """What of the picture the outline can touch; None where it lies outside."""
        xs, ys = zip(*outline, strict=True)
        left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
        right = min(self.width, math.ceil(max(xs)) + 1)
        bottom = min(self.height, math.ceil(max(ys)) + 1)
        return (left, top, right, bottom) if left < right and top < bottom else None

    def instance_numbers(self) -> np.ndarray:
        """uint16 [H, W]"""
        return np.asarray(self.instances).astype(np.uint16)

    def shade(self, colour: Colour, spread: float = 0.2) -> Colour:
        return shade(colour, self.rng, spread)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def ellipse(x: float, y: float, half_width: float, half_height: float) -> Outline:
    turns = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    return [(x + half_width * math.cos(t), y + half_height * math.sin(t)) for t in turns]


def blob(
    x: float, y: float, half_width: float, half_height: float, rng: np.random.Generator
) -> Outline:
    """An uneven ellipse: a crown, a bush, a rock."""
    radii = rng.uniform(0.8, 1.15, 36)
    return [
        (x + r * (px - x), y + r * (py - y))
        for r, (px, py) in zip(radii, ellipse(x, y, half_width, half_height), strict=True)
    ]
