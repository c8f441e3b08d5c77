"""How training images are brought to one size, with or without chance.

Images are uint8 [H, W, 3] RGB, labels uint8 [h, w] (h and w may be a share of H and W), sizes
(height, width) in pixels. Whatever is drawn comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparsevit.data.label_maps import IGNORED
from sparsevit.data.preprocess import Preprocess

Size = tuple[int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the source

ATTEMPTS = 10


def classification_sample(
    image: np.ndarray, preprocess: Preprocess, size: Size, rng: np.random.Generator | None
) -> np.ndarray:
    """A random part of the image at `size`, mirrored or not; without `rng` as in evaluation."""
    if rng is None:
        return replace(preprocess, resize=size, slide=None).crops(image)[0]
    return flipped(random_resized_crop(image, size, rng, preprocess.interpolation), None, rng)[0]


def segmentation_sample(
    image: np.ndarray,
    labels: np.ndarray,
    preprocess: Preprocess,
    size: Size,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, np.ndarray]:
    """A random part of image and labels at a random scale, mirrored or not, brought to `size`;
    without `rng` all of them, resized.

    The scale is relative to that of evaluation: the preprocessing's `resize`, the image's own where
    it slides, else `size`.
    """
    if rng is None:
        return resized(image, labels, size, preprocess.interpolation)
    base = image.shape[:2] if preprocess.slide is not None else preprocess.resize or size
    mean = [round(255 * value) for value in preprocess.mean]
    fill = mean if preprocess.channels == "rgb" else mean[::-1]
    return flipped(*scaled_crop(image, labels, base, size, rng, fill), rng)


def resized(
    image: np.ndarray, target: Any, size: Size, interpolation: str = "bilinear"
) -> tuple[np.ndarray, Any]:
    """The image at another size, whatever its shape, and with it (nearest) a target that is a map of
    labels; labels keep their share of the image's size."""
    if image.shape[:2] == size:
        return image, target
    if isinstance(target, np.ndarray) and target.ndim == 2:
        stride = max(1, round(image.shape[0] / target.shape[0]))
        target = _cut(target, _whole(target), (size[0] // stride, size[1] // stride), "nearest")
    return _cut(image, _whole(image), size, interpolation), target


def random_resized_crop(
    image: np.ndarray,
    size: Size,
    rng: np.random.Generator,
    interpolation: str = "bilinear",
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A part of the image with a random area (a share of its own) and shape (width to height).

    Szegedy et al., 2015 (arXiv 1409.4842), as ImageNet classifiers are trained. Where no draw fits,
    the largest middle part whose shape does.
    """
    height, width = image.shape[:2]
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        rows, cols = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < rows <= height and 0 < cols <= width:
            top, left = (int(rng.integers(0, n + 1)) for n in (height - rows, width - cols))
            return _cut(image, (left, top, left + cols, top + rows), size, interpolation)
    shape = min(max(width / height, ratio[0]), ratio[1])
    rows, cols = min(height, round(width / shape)), min(width, round(height * shape))
    top, left = (height - rows) // 2, (width - cols) // 2
    return _cut(image, (left, top, left + cols, top + rows), size, interpolation)


def scaled_crop(
    image: np.ndarray,
    labels: np.ndarray,
    base: Size,
    size: Size,
    rng: np.random.Generator,
    fill: Sequence[int],
    scale: tuple[float, float] = (0.5, 2.0),
) -> tuple[np.ndarray, np.ndarray]:
    """A random part of `size` of image and labels at a random scale of `base`, the whole image's size.

    What reaches beyond the image is `fill` there and IGNORED in the labels. Only the part is ever
    resized. As segmentation models are trained on Cityscapes and ADE20K (Cheng et al., CVPR 2022).
    """
    factor = rng.uniform(*scale)
    whole = [max(1, round(length * factor)) for length in base]
    part = (min(whole[0], size[0]), min(whole[1], size[1]))
    top, left = (int(rng.integers(0, n - m + 1)) for n, m in zip(whole, part, strict=True))
    box = (left / whole[1], top / whole[0], (left + part[1]) / whole[1], (top + part[0]) / whole[0])
    missing = ((0, size[0] - part[0]), (0, size[1] - part[1]))
    drawn = np.empty((*size, 3), np.uint8)
    drawn[:] = np.asarray(fill, np.uint8)
    drawn[: part[0], : part[1]] = _cut(image, _scaled(box, image), part)
    found = _cut(labels, _scaled(box, labels), part, "nearest")
    return drawn, np.pad(found, missing, constant_values=IGNORED)


def flipped(
    image: np.ndarray, labels: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, Any]:
    """Image and labels, if any, mirrored left to right in half of all cases."""
    if rng.random() < 0.5:
        return image, labels
    mirrored = None if labels is None else np.ascontiguousarray(labels[:, ::-1])
    return np.ascontiguousarray(image[:, ::-1]), mirrored


def resized_part(image: np.ndarray, box: Box, size: Size, interpolation: str) -> np.ndarray:
    """The part of the image within the box, brought to `size`."""
    if box == _whole(image) and image.shape[:2] == tuple(size):
        return image
    return _cut(image, box, size, interpolation)


def _cut(source: np.ndarray, box: Box, size: Size, interpolation: str = "bilinear") -> np.ndarray:
    """The part of the source within the box, resized."""
    from PIL import Image

    method = Image.Resampling[interpolation.upper()]
    return np.array(Image.fromarray(source).resize((size[1], size[0]), method, box=box))


def _whole(source: np.ndarray) -> Box:
    return (0, 0, source.shape[1], source.shape[0])


def _scaled(box: Box, source: np.ndarray) -> Box:
    """Shares of a source's size as pixels of it."""
    height, width = source.shape[:2]
    left, top, right, bottom = box
    return (left * width, top * height, min(right * width, width), min(bottom * height, height))
