"""Rooms and landscapes in ADE20K's layout: `ADEChallengeData2016/{images,annotations}/...`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from sparsevit.data.ade20k import ALIASES, CLASS_NAMES, CLASSES, TABLE
from sparsevit.data.make.materials import Colour
from sparsevit.data.make.scene import Outline, Scene, blob, ellipse, rectangle

FOLDER = "ADEChallengeData2016"
SIZE = (384, 512)
WOOD, GREEN = (95, 65, 40), (60, 105, 50)
STUFF = ("wall", "building", "sky", "floor", "tree", "ceiling", "road", "grass", "mountain", "sea")


def make(
    out: Path, counts: Mapping[str, int], size: tuple[int, int] | None, seed: int
) -> Iterator[Path]:
    """Writes the set; yields each image when it is there. counts: images of each split."""
    root, scenes = out / FOLDER, []
    pixels, images = np.zeros(CLASSES + 1, np.int64), np.zeros((len(counts), CLASSES + 1), np.int64)
    for number, (split, count) in enumerate(counts.items()):
        folders = [root / kind / ALIASES[split] for kind in ("images", "annotations")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            name, category = f"ADE_{split}_{index + 1:08}", ("living_room", "coast")[index % 2]
            picture = _Picture(*(size or SIZE), split, rng)
            picture.draw_inside() if category == "living_room" else picture.draw_outside()
            picture.scene.labels.save(folders[1] / f"{name}.png")
            path = folders[0] / f"{name}.jpg"
            picture.scene.image.save(path, quality=90)
            found = np.bincount(np.asarray(picture.scene.labels).ravel(), minlength=CLASSES + 1)
            pixels += found
            images[number] += found > 0
            scenes.append(f"{name} {category}\n")
            yield path
    (root / "sceneCategories.txt").write_text("".join(scenes))
    (root / TABLE).write_text(_table(pixels, images))


def _table(pixels: np.ndarray, images: np.ndarray) -> str:
    """Rows of class, share of the labelled pixels, images of each split that show it, stuff, name."""
    shares = pixels / max(1, pixels[1:].sum())
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    for label, name in enumerate(CLASS_NAMES, 1):
        counts = "\t".join(str(count) for count in images[:, label])
        rows.append(f"{label}\t{shares[label]:.4f}\t{counts}\t{int(name in STUFF)}\t{name}")
    return "\n".join(rows) + "\n"


class _Picture:
    """One picture, in shares of its height and width; labels by the names of the classes."""

    def __init__(self, height: int, width: int, split: str, rng: np.random.Generator) -> None:
        self.scene, self.rng = Scene(height, width, split, rng), rng

    def fill(
        self, outline: Outline, name: str, material: str = "gravel", colour: Colour = (128,) * 3
    ) -> None:
        width, height = self.scene.width, self.scene.height
        scaled = [(x * width, y * height) for x, y in outline]
        self.scene.fill(scaled, 1 + CLASS_NAMES.index(name), material, self.scene.shade(colour))

    def draw_inside(self) -> None:
        rng = self.rng
        low, high = rng.uniform(0.6, 0.72), rng.uniform(0.06, 0.16)
        self.fill(rectangle(0, 0, 1, 1), "wall", "brick", (190, 180, 165))
        self.fill([(0, 0), (1, 0), (0.9, high), (0.1, high)], "ceiling", "gravel", (225, 225, 220))
        self.fill([(0.1, low), (0.9, low), (1, 1), (0, 1)], "floor", "brick", (150, 110, 80))
        self.fill(rectangle(0.03, 0.25, 0.13, low + 0.1), "door", "gravel", (120, 80, 50))
        for x in np.arange(0.2, 0.8, 0.22):
            kind = rng.random()
            frame = rectangle(x, high + 0.1, x + 0.15, high + 0.32)
            if kind < 0.35:
                self.fill(frame, "painting", "photograph")
            elif kind < 0.7:
                self.fill(frame, "windowpane", "photograph")
                for side in (x - 0.02, x + 0.14):
                    drape = rectangle(side, high + 0.08, side + 0.04, low - 0.05)
                    self.fill(drape, "curtain", "grass", (150, 60, 70))
        self.fill(ellipse(0.5, low + 0.2, 0.35, 0.1), "rug", "grass", (140, 70, 60))
        self._furnish(low)
        self._leave_unlabelled()

    def _furnish(self, low: float) -> None:
        rng = self.rng
        x = rng.uniform(0.18, 0.4)
        self.fill(rectangle(x, low - 0.12, x + 0.32, low + 0.12), "sofa", "grass", (80, 95, 130))
        for side in (0.04, 0.2):
            cushion = blob(x + side + 0.04, low - 0.06, 0.04, 0.05, rng)
            self.fill(cushion, "cushion", "grass", (200, 160, 60))
        left = rng.uniform(0.2, 0.6)
        self.fill(
            rectangle(left, low + 0.14, left + 0.24, low + 0.18), "table", "brick", (95, 65, 40)
        )
        for leg in (left + 0.01, left + 0.21):
            self.fill(
                rectangle(leg, low + 0.18, leg + 0.02, low + 0.28), "table", "brick", (95, 65, 40)
            )
        if rng.random() < 0.6:
            self.fill(rectangle(0.84, low - 0.25, 0.85, low + 0.08), "lamp", "gravel", (60, 60, 60))
            shade = [(0.82, low - 0.34), (0.87, low - 0.34), (0.89, low - 0.24), (0.8, low - 0.24)]
            self.fill(shade, "lamp", "gravel", (240, 220, 160))
        if rng.random() < 0.6:
            self.fill(rectangle(0.88, low, 0.94, low + 0.14), "pot", "gravel", (170, 90, 60))
            self.fill(blob(0.91, low - 0.06, 0.06, 0.12, rng), "plant", "grass", (60, 120, 60))
        if rng.random() < 0.5:
            self._person(rng.uniform(0.6, 0.8), low + 0.25, 0.5)

    def draw_outside(self) -> None:
        rng = self.rng
        horizon = rng.uniform(0.35, 0.5)
        self.fill(rectangle(0, 0, 1, horizon + 0.01), "sky", "gravel", (170, 200, 230))
        ridge = [(x, horizon - rng.uniform(0.02, 0.2)) for x in np.linspace(0, 1, 9)]
        self.fill([(0, horizon), *ridge, (1, horizon)], "mountain", "gravel", (110, 115, 125))
        self.fill(rectangle(0, horizon, 1, horizon + 0.2), "sea", "grass", (60, 110, 150))
        shore = horizon + 0.14
        bay = [(x, shore + rng.uniform(-0.03, 0.03)) for x in np.linspace(0, 1, 9)]
        self.fill([(0, 1), *bay, (1, 1)], "grass", "grass", (95, 140, 70))
        self.fill([(0.46, shore), (0.54, shore), (0.8, 1), (0.2, 1)], "road", "gravel", (120,) * 3)
        if rng.random() < 0.7:
            x = rng.uniform(0.05, 0.9)
            hull = [(x, horizon + 0.05), (x + 0.1, horizon + 0.05), (x + 0.08, horizon + 0.09),
                    (x + 0.02, horizon + 0.09)]  # fmt: skip
            self.fill(hull, "boat", "gravel", (200, 70, 60))
        for _ in range(rng.integers(1, 4)):
            self._house(rng.uniform(0.0, 0.3), shore + rng.uniform(0.05, 0.2))
        for _ in range(rng.integers(2, 6)):
            x, foot = rng.uniform(0.6, 0.98), shore + rng.uniform(0.05, 0.3)
            self.fill(
                rectangle(x - 0.008, foot - 0.15, x + 0.008, foot), "tree", "gravel", (90, 65, 45)
            )
            self.fill(blob(x, foot - 0.2, 0.06, 0.1, rng), "tree", "grass", GREEN)
        for _ in range(rng.integers(0, 3)):
            self._car(rng.uniform(0.35, 0.55), rng.uniform(0.75, 0.95))
        if rng.random() < 0.6:
            self._person(rng.uniform(0.2, 0.8), rng.uniform(0.8, 0.95), 0.3)
        self._leave_unlabelled()

    def _house(self, x: float, foot: float) -> None:
        self.fill(rectangle(x, foot - 0.16, x + 0.16, foot), "house", "brick", (190, 150, 120))
        roof = [(x - 0.02, foot - 0.16), (x + 0.08, foot - 0.26), (x + 0.18, foot - 0.16)]
        self.fill(roof, "house", "brick", (150, 70, 55))

    def _car(self, x: float, foot: float) -> None:
        body = [(x, foot), (x, foot - 0.06), (x + 0.03, foot - 0.11), (x + 0.11, foot - 0.11),
                (x + 0.15, foot - 0.06), (x + 0.15, foot)]  # fmt: skip
        self.fill(body, "car", "gravel", (170, 50, 50))
        for side in (0.03, 0.12):
            self.fill(ellipse(x + side, foot, 0.018, 0.024), "car", "gravel", (40, 40, 45))

    def _person(self, x: float, foot: float, size: float) -> None:
        self.fill(rectangle(x - 0.05 * size, foot - 0.5 * size, x + 0.05 * size, foot), "person")
        trunk = ellipse(x, foot - 0.62 * size, 0.11 * size, 0.24 * size)
        self.fill(trunk, "person", "grass", (70, 90, 160))
        head = ellipse(x, foot - 0.93 * size, 0.05 * size, 0.08 * size)
        self.fill(head, "person", "gravel", (200, 160, 135))

    def _leave_unlabelled(self) -> None:
        """Something that the annotators had no class for: label 0."""
        width, height = self.scene.width, self.scene.height
        x, y = self.rng.uniform(0.1, 0.9) * width, self.rng.uniform(0.75, 0.95) * height
        thing = blob(x, y, 0.03 * width, 0.03 * height, self.rng)
        self.scene.fill(thing, 0, "photograph")
