"""What a data set is, and how it is split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from sparsevit.errors import DatasetError

Target = Any
"""What a task learns of an image: a class index, a label map uint8 [h, w], boxes, ..."""
Sample = tuple[np.ndarray, Target]


class Dataset(Protocol):
    """Images with targets, read one at a time; reading is deterministic.

    sample(i) -> (image uint8 [H, W, 3] RGB, target). files(i): what it is read from, the image
    first, then annotations of its own; empty where it is not read from files.
    """

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample: ...

    def files(self, index: int) -> tuple[Path, ...]: ...


class Reader(Dataset, Protocol):
    """One split of a data set in folders, in a layout that other tools know too.

    layout: what is expected where, for messages. Raises DatasetError, naming the file and the reason.
    """

    layout: ClassVar[str]

    def __init__(self, root: Path, split: str, class_names: Sequence[str]) -> None: ...

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder looks like this layout."""


@dataclass(frozen=True)
class Subset:
    """Some images of a data set, in the given order."""

    dataset: Dataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int) -> Sample:
        return self.dataset.sample(self.indices[index])

    def files(self, index: int) -> tuple[Path, ...]:
        return self.dataset.files(self.indices[index])


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

    def files(self, index: int) -> tuple[Path, ...]:
        return self.dataset.files(index)


def batches(
    dataset: Dataset, indices: Sequence[int], size: int
) -> Iterator[tuple[list[np.ndarray], list[Target]]]:
    """(images, targets) of the given indices, `size` at a time."""
    for start in range(0, len(indices), size):
        samples = [dataset.sample(i) for i in indices[start : start + size]]
        yield [s[0] for s in samples], [s[1] for s in samples]


def shard_indices(images: int, shard: int, shards: int) -> range:
    """The images of one shard: contiguous slices whose sizes differ by at most one."""
    return range(images * shard // shards, images * (shard + 1) // shards)
