"""From an 8-bit image to what the network was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsevit.errors import ConfigError, DatasetError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocess:
    """Resize, then (x / 255 - mean) / std.

    resize: (height, width) in pixels of the network's input, or None: images stay as they are.
    interpolation: one of INTERPOLATIONS, as Pillow computes it.
    crop_pct: None brings an image to `resize` whatever its shape; a share keeps its shape, scales
    it to cover resize / crop_pct and cuts the middle out (timm, torchvision).
    crop_at: "middle", or "bottom" where what is cut away is the top alone, and both sides (BEVDet).
    slide: None, or the step of a sliding window as a share of `resize`: an image is then not resized
    but cut into overlapping crops of that size.
    channels: the order the network expects, "rgb" or "bgr"; mean and std are in that order.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    crop_pct: float | None = None
    crop_at: str = "middle"
    slide: float | None = None
    channels: str = "rgb"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError("preprocess needs three means and three positive deviations.")
        if self.channels not in ("rgb", "bgr"):
            raise ConfigError(f"preprocess.channels is {self.channels!r}; it is rgb or bgr.")
        if self.crop_at not in ("middle", "bottom"):
            raise ConfigError(f"preprocess.crop_at is {self.crop_at!r}; it is middle or bottom.")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"preprocess.interpolation is {self.interpolation!r}; it is one of "
                f"{', '.join(INTERPOLATIONS)}."
            )
        for name in ("crop_pct", "slide"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ConfigError(
                    f"preprocess.{name} is {share!r}; it is a share up to 1, or null."
                )
        if self.crop_pct is not None and self.slide is not None:
            raise ConfigError("preprocess takes one of crop_pct and slide.")

    def __call__(self, images: Sequence[np.ndarray]) -> Tensor:
        """uint8 images [H, W, 3] to one fp32 tensor [crops of all images in turn, 3, H, W]; without
        `slide` every image is one crop, and of images [V, H, W, 3] every view. DatasetError where
        they come in several sizes."""
        return stack_images(
            [self._normalised(crop) for image in images for crop in self.crops(image)]
        )

    def crops(self, image: np.ndarray) -> list[np.ndarray]:
        """The uint8 inputs [h, w, 3] of one image, or of all views of one."""
        if image.ndim == 4:
            return [crop for view in image for crop in self.crops(view)]
        if self.resize is None:
            return [image]
        if self.slide is None:
            return [self._resized(image)]
        height, width = self.resize
        return [
            _padded(image[top : top + height, left : left + width], self.resize)
            for top, left in self.corners(*image.shape[:2])
        ]

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top left corners of the crops of an image of this size, row by row; the last of a row
        and of a column end with the image."""
        if self.slide is None or self.resize is None:
            return [(0, 0)]
        tops, lefts = (
            _starts(length, crop, max(1, round(self.slide * crop)))
            for length, crop in zip((height, width), self.resize, strict=True)
        )
        return [(top, left) for top in tops for left in lefts]

    def _resized(self, image: np.ndarray) -> np.ndarray:
        from PIL import Image

        assert self.resize is not None
        if image.shape[:2] == self.resize and self.crop_pct in (None, 1):
            return image
        picture, (height, width) = Image.fromarray(image), self.resize
        method = Image.Resampling[self.interpolation.upper()]
        if self.crop_pct is None:
            return np.array(picture.resize((width, height), method))
        covering, (left, top) = self._covering(picture.height, picture.width)
        cut = picture.resize(covering, method).crop((left, top, left + width, top + height))
        return np.array(cut)

    def _covering(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """((width, height) to which an image is scaled, (left, top) of what is cut out of it)."""
        assert self.resize is not None
        assert self.crop_pct is not None
        # In integers, as torchvision has it: a float product may fall short by one pixel.
        wanted = [math.floor(side / self.crop_pct) for side in self.resize]
        scale = max(Fraction(wanted[0], height), Fraction(wanted[1], width))
        covering = (max(1, math.floor(width * scale)), max(1, math.floor(height * scale)))
        left, top = (round((a - b) / 2) for a, b in zip(covering, self.resize[::-1], strict=True))
        return covering, (left, covering[1] - self.resize[0] if self.crop_at == "bottom" else top)

    def placement(self, height: int, width: int) -> np.ndarray:
        """From pixels of an image of this size to pixels of its input: float64 [3, 3], of points
        (x, y, 1). Not for a sliding window, which makes several inputs."""
        if self.resize is None:
            return np.eye(3)
        covering, (left, top) = self.resize[::-1], (0, 0)
        if self.crop_pct is not None:
            covering, (left, top) = self._covering(height, width)
        return np.array(
            [[covering[0] / width, 0, -left], [0, covering[1] / height, -top], [0, 0, 1]]
        )

    def _normalised(self, image: np.ndarray) -> Tensor:
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        x = torch.from_numpy(image).permute(2, 0, 1).float().div_(255.0)
        if self.channels == "bgr":
            x = x.flip(0)
        return x.sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": list(self.resize) if self.resize else None,
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_at": self.crop_at,
            "slide": self.slide,
            "channels": self.channels,
        }

    def updated(self, document: Mapping[str, Any] | None) -> Preprocess:
        """This preprocessing with the given fields of `to_dict` replaced; None leaves a field. Of
        crop_pct and slide the one that is given takes the other's place."""
        given = {k: v for k, v in (document or {}).items() if v is not None}
        if len(way := given.keys() & {"crop_pct", "slide"}) == 1:
            given |= {"crop_pct": None, "slide": None} | {k: given[k] for k in way}
        try:
            return replace(
                self, **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
            )
        except TypeError as error:
            raise ConfigError(f"preprocess: {error}") from error


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Images [3, H, W] as a batch. DatasetError, with what to do, where they differ in size."""
    if len({image.shape for image in images}) > 1:
        raise DatasetError(
            "the images differ in size, and a batch needs one: give a height and a width "
            "(`size` in the library, --height and --width on the command line)."
        )
    return torch.stack(list(images))


def _starts(length: int, crop: int, step: int) -> list[int]:
    """Where crops begin so that they cover a length; one crop where it is no longer than that."""
    last = max(0, length - crop)
    return [*range(0, last, step), last]


def _padded(crop: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A crop of an image smaller than `size`, filled up at the bottom and right by its last pixels."""
    missing = [wanted - side for wanted, side in zip(size, crop.shape[:2], strict=True)]
    if not any(missing):
        return crop
    return np.pad(crop, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
