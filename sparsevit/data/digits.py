"""The embedded data set: strings of real handwritten digits on large canvases.

Made from real pixels that ship inside packages: the UCI digits (scikit-learn), textures and
photographs (scikit-image, scikit-learn). Small strings on a mostly empty canvas are what makes high
resolution matter and most windows unimportant. Half of the canvases (even indices) have a smooth
background, half (odd indices) a real texture or photograph: a score that only finds pixel variance
fails there.

Every canvas is a pure function of (split, index); glyphs and background pixels of the training,
search and report splits are disjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from sparsevit.data.base import Progress
from sparsevit.errors import DatasetError

CLASSES = ("background", *(str(d) for d in range(10)))
LABEL_STRIDE = 4
PATCH = 28  # pixels of a glyph's square patch; strings are 11 to 16 pixels high inside it

# Share of each photograph's width, and range of the shuffled UCI digits, that a split may use.
SPLITS = {
    "train": ((0.0, 0.5), (0, 1300), 1),
    "search": ((0.5, 0.75), (1300, 1548), 2),
    "report": ((0.75, 1.0), (1548, 1797), 3),
}
PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip


@lru_cache(maxsize=1)
def _glyphs() -> tuple[np.ndarray, np.ndarray]:
    """All UCI digits, shuffled once: fp32 [1797, 8, 8] in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    return (digits.images[order] / 16).astype(np.float32), digits.target[order]


@lru_cache(maxsize=4)
def _photographs(split: str) -> tuple[np.ndarray, ...]:
    """The split's vertical band of every photograph: fp32 [h, w, 3] in [0, 1]."""
    import skimage
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = Path(skimage.__file__).parent / "data"
    images = [np.asarray(Image.open(folder / name).convert("RGB")) for name in PHOTOGRAPHS]
    images += list(load_sample_images().images)
    (start, stop), _, _ = SPLITS[split]
    bands = [im[:, int(im.shape[1] * start) : int(im.shape[1] * stop)] for im in images]
    return tuple(band.astype(np.float32) / 255 for band in bands)


@dataclass(frozen=True)
class DigitCanvases:
    """Canvases of one split. `packed` fills small canvases with many digits, for early training."""

    split: str = "search"
    count: int = 128
    size: int = 448
    packed: bool = False
    seed: int = 0
    augmented: ClassVar[bool] = True  # every canvas is another draw, and a mirrored digit is none

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise DatasetError(f"the digits set has the splits {', '.join(SPLITS)}.")

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """image uint8 [size, size, 3]; labels uint8 [size/4, size/4], 0 background, d + 1 digit d."""
        rng = np.random.default_rng([SPLITS[self.split][2], self.seed, index, int(self.packed)])
        canvas = self._photograph(rng) if index % 2 else self._smooth(rng)
        self._clutter(canvas, rng)
        labels = self._strings(canvas, rng)
        canvas += 0.04 * rng.standard_normal(canvas.shape, dtype=np.float32)
        pooled = labels.reshape(self.size // LABEL_STRIDE, LABEL_STRIDE, -1, LABEL_STRIDE)
        return (canvas.clip(0, 1) * 255).astype(np.uint8), pooled.max(axis=(1, 3))

    def files(self, index: int) -> tuple[Path, ...]:
        return ()

    def check(self, progress: Progress | None = None, indices: Sequence[int] | None = None) -> None:
        """Drawn, not read from files: there is nothing to find."""

    def foreground(self, index: int) -> np.ndarray:
        """bool [size/4, size/4]: where a digit is."""
        return self.sample(index)[1] > 0

    def _smooth(self, rng: np.random.Generator) -> np.ndarray:
        canvas = np.full((self.size, self.size, 3), 0.4, np.float32)
        for cells, strength in ((64, 0.09), (16, 0.05), (4, 0.035)):
            grid = rng.standard_normal(
                (1, 3, max(2, self.size // cells), max(2, self.size // cells)), dtype=np.float32
            )
            layer = F.interpolate(torch.from_numpy(grid), size=self.size, mode="bilinear")
            canvas += strength * layer[0].permute(1, 2, 0).numpy()
        return canvas

    def _photograph(self, rng: np.random.Generator) -> np.ndarray:
        """A crop of a photograph at a random zoom, mirrored where the band is too small, with its
        contrast reduced so that strings stay legible."""
        bands = _photographs(self.split)
        band = bands[rng.integers(len(bands))]
        zoom = rng.uniform(0.8, 1.6)
        for axis in (0, 1):
            length = band.shape[axis]
            positions = rng.uniform(0, length) + np.arange(self.size) / zoom
            folded = np.abs((positions + length - 1) % (2 * (length - 1)) - (length - 1))
            low = folded.astype(np.int64).clip(0, length - 2)
            weight = (folded - low).astype(np.float32)
            weight = weight[:, None, None] if axis == 0 else weight[None, :, None]
            band = band.take(low, axis) * (1 - weight) + band.take(low + 1, axis) * weight
        contrast, brightness = rng.uniform(0.25, 0.6), rng.uniform(0.3, 0.45)
        return ((band - band.mean()) * contrast + brightness).astype(np.float32)

    def _clutter(self, canvas: np.ndarray, rng: np.random.Generator) -> None:
        """Translucent rectangles and strokes."""
        area = (self.size / 448) ** 2
        for _ in range(rng.integers(max(2, int(10 * area)), max(4, int(24 * area)) + 1)):
            y, x = rng.integers(0, self.size - 20, 2)
            height, width = rng.integers(2, 18, 2)
            if rng.random() < 0.4:
                height, width = (3, width) if rng.random() < 0.5 else (height, 3)
            alpha, colour = rng.uniform(0.3, 0.9), rng.uniform(0.1, 1.0, 3).astype(np.float32)
            part = canvas[y : y + height, x : x + width]
            part *= 1 - alpha
            part += colour * alpha

    def _strings(self, canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws the strings of digits; returns the labels, uint8 [size, size]."""
        low, high = (9, 14) if self.packed else (1, 3)
        labels = np.zeros((self.size, self.size), np.uint8)
        taken: list[tuple[float, float, float, float]] = []
        for _ in range(rng.integers(low, high + 1)):
            length, height = int(rng.integers(3, 7)), float(rng.integers(11, 17))
            patches, classes = self._draw_glyphs(length, height, rng)
            place = self._place(length, height, taken, rng)
            if place is None:
                continue
            colour = rng.uniform(0.6, 1.0, 3).astype(np.float32)
            for i, (patch, label) in enumerate(zip(patches, classes, strict=True)):
                x = place[1] + int(i * height * 0.9)
                y = int(np.clip(place[0] + rng.integers(-2, 3), 0, self.size - PATCH))
                part = canvas[y : y + PATCH, x : x + PATCH]
                part *= 1 - patch[..., None]
                part += colour * patch[..., None]
                labels[y : y + PATCH, x : x + PATCH][patch > 0.35] = label + 1
        return labels

    def _draw_glyphs(
        self, length: int, height: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """`length` glyphs as alpha patches [length, PATCH, PATCH], `height` pixels high; training
        glyphs are rotated, sheared and stretched."""
        images, targets = _glyphs()
        chosen = rng.integers(*SPLITS[self.split][1], length)
        strength = float(self.split == "train")
        angle = rng.uniform(-0.2, 0.2, length) * strength
        shear = rng.uniform(-0.15, 0.15, length) * strength
        stretch = rng.uniform(-0.12, 0.12, length) * strength
        theta = np.zeros((length, 2, 3), np.float32)
        theta[:, 0, 0] = np.cos(angle) * (1 + stretch)
        theta[:, 0, 1] = -np.sin(angle) + shear
        theta[:, 1, 0] = np.sin(angle)
        theta[:, 1, 1] = np.cos(angle) * (1 - stretch)
        grid = F.affine_grid(
            torch.from_numpy(theta * (PATCH / height)), [length, 1, PATCH, PATCH], False
        )
        source = torch.from_numpy(images[chosen])[:, None]
        patches = F.grid_sample(source, grid, mode="bilinear", align_corners=False)
        return patches[:, 0].numpy(), targets[chosen]

    def _place(
        self, length: int, height: float, taken: list, rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """Top left corner of a string clear of the others; None when 40 tries find none."""
        width = int((length - 1) * height * 0.9) + PATCH
        margin = (PATCH - height) / 2
        for _ in range(40):
            y = int(rng.integers(0, self.size - PATCH))
            x = int(rng.integers(0, self.size - width))
            box = (y + margin, x + margin, y + margin + height, x + width - margin)
            if not any(
                box[0] < t[2] + 5 and t[0] < box[2] + 5 and box[1] < t[3] + 5 and t[1] < box[3] + 5
                for t in taken
            ):
                taken.append(box)
                return y, x
        return None
