"""What a data set is, how it is split, and how its images become tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.errors import ConfigError, DatasetError


class Dataset(Protocol):
    """Images with dense labels, read one at a time; reading is deterministic.

    sample(i) -> (image uint8 [H, W, 3] RGB, labels uint8 [h, w]); labels may be coarser than the image.
    """

    def __len__(self) -> int: ...

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Subset:
    """Some images of a data set, in the given order."""

    dataset: Dataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.dataset.sample(self.indices[index])


@dataclass(frozen=True)
class Splits:
    """The images of a job. The search never sees `report`; names say what they are."""

    search: Dataset
    report: Dataset
    search_name: str
    report_name: str


def hold_out(dataset: Dataset, name: str, share: float) -> Splits:
    """Keeps a share of the images from the search, evenly spread, so that both parts span the set.

    Each part gets at least one image. Raises DatasetError where there are not two.
    """
    images = len(dataset)
    if images < 2:
        raise DatasetError("a search needs at least two images: one is held out for the report.")
    count = min(images - 1, max(1, round(images * share)))
    report = [int((i + 0.5) * images / count) for i in range(count)]
    search = sorted(set(range(images)) - set(report))
    return Splits(
        Subset(dataset, search), Subset(dataset, report), f"{name}:search", f"{name}:holdout"
    )


@dataclass(frozen=True)
class Resized:
    """A data set whose images (bilinear) and labels (nearest) are brought to one size.

    size: (height, width) in pixels; labels keep their share of it.
    """

    dataset: Dataset
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        from PIL import Image

        image, labels = self.dataset.sample(index)
        stride = max(1, round(image.shape[0] / labels.shape[0]))
        height, width = self.size
        small = Image.fromarray(labels).resize((width // stride, height // stride), Image.NEAREST)
        large = Image.fromarray(image).resize((width, height), Image.BILINEAR)
        return np.asarray(large).copy(), np.asarray(small).copy()


@dataclass(frozen=True)
class Preprocess:
    """From 8-bit RGB to what the network was trained on: resize, then (x / 255 - mean) / std.

    resize: (height, width) in pixels that every image is brought to, or None to leave it.
    channels: the order the network expects, "rgb" or "bgr"; mean and std are in that order.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: tuple[int, int] | None = None
    channels: str = "rgb"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError("preprocess needs three means and three positive deviations.")
        if self.channels not in ("rgb", "bgr"):
            raise ConfigError(f"preprocess.channels is {self.channels!r}; it is rgb or bgr.")

    def __call__(self, images: Sequence[np.ndarray]) -> Tensor:
        """uint8 images [H, W, 3] to one fp32 tensor [B, 3, H, W]."""
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        return torch.stack([self._one(image).sub_(mean).div_(std) for image in images])

    def _one(self, image: np.ndarray) -> Tensor:
        x = torch.from_numpy(image).permute(2, 0, 1).float().div_(255.0)
        if self.channels == "bgr":
            x = x.flip(0)
        if self.resize is None or tuple(x.shape[-2:]) == self.resize:
            return x
        return F.interpolate(
            x[None], self.resize, mode="bilinear", align_corners=False, antialias=True
        )[0]

    def to_dict(self) -> dict[str, Any]:
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": list(self.resize) if self.resize else None,
            "interpolation": "bilinear",
            "channels": self.channels,
        }

    def updated(self, document: Mapping[str, Any] | None) -> Preprocess:
        """This preprocessing with the given fields of `to_dict` replaced; None leaves a field."""
        given = {
            k: v for k, v in (document or {}).items() if k != "interpolation" and v is not None
        }
        try:
            return replace(
                self, **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
            )
        except TypeError as error:
            raise ConfigError(f"preprocess: {error}") from error


def batches(
    dataset: Dataset, indices: Sequence[int], size: int
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """(images, labels) of the given indices, `size` at a time."""
    for start in range(0, len(indices), size):
        samples = [dataset.sample(i) for i in indices[start : start + size]]
        yield [s[0] for s in samples], [s[1] for s in samples]


def shard_indices(images: int, shard: int, shards: int) -> range:
    """The images of one shard: contiguous slices whose sizes differ by at most one."""
    return range(images * shard // shards, images * (shard + 1) // shards)
