"""What things are painted with: photographs, and textures tinted by a colour."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Colour = tuple[int, int, int]

PHOTOGRAPHS = (
    "astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png",
    "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
# The share of each picture's width that a split may use: no pixel is in two splits.
BANDS = {"train": (0.0, 0.6), "val": (0.6, 1.0)}


@cache
def _photographs(split: str) -> tuple[Image.Image, ...]:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    images = [_shipped(name) for name in PHOTOGRAPHS]
    images += [Image.fromarray(image) for image in load_sample_images().images]
    return tuple(_band(image.convert("RGB"), split) for image in images)


@cache
def _texture(name: str, split: str) -> Image.Image:
    from PIL import ImageOps

    return _band(ImageOps.autocontrast(_shipped(f"{name}.png").convert("L"), cutoff=2), split)


def _shipped(name: str) -> Image.Image:
    import skimage
    from PIL import Image

    return Image.open(Path(skimage.__file__).parent / "data" / name)


def _band(image: Image.Image, split: str) -> Image.Image:
    start, stop = (round(share * image.width) for share in BANDS[split])
    return image.crop((start, 0, stop, image.height))


def photograph(split: str, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A crop of one of the split's photographs, RGB. size: (width, height) in pixels."""
    images = _photographs(split)
    return _crop(images[rng.integers(len(images))], size, rng.uniform(0.5, 1.0), rng)


def tinted(
    texture: str, colour: Colour, split: str, size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    """A crop of a texture ("brick", "grass", "gravel") in shades of a colour, RGB."""
    from PIL import ImageOps

    grey = _crop(_texture(texture, split), size, rng.uniform(0.4, 0.9), rng)
    dark, light = (tuple(min(255, round(c * share)) for c in colour) for share in (0.7, 1.2))
    return ImageOps.colorize(grey, dark, light)


def _crop(
    image: Image.Image, size: tuple[int, int], share: float, rng: np.random.Generator
) -> Image.Image:
    """The largest crop of that shape, times `share`, somewhere in the image, brought to the size."""
    from PIL import Image

    scale = share * min(image.width / size[0], image.height / size[1])
    width, height = (max(1.0, side * scale) for side in size)
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    return image.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))


def shade(colour: Colour, rng: np.random.Generator, spread: float = 0.2) -> Colour:
    """The colour, a little lighter or darker, and a little off."""
    factor = rng.uniform(1 - spread, 1 + spread) + rng.uniform(-0.04, 0.04, 3)
    return tuple(int(c) for c in (np.array(colour) * factor).clip(0, 255))
