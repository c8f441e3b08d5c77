"""What a data set is, and how it is split."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from sparsevit.errors import DatasetError

Target = Any
"""What a task learns of an image: a class index, a label map uint8 [h, w], boxes, ..."""
Sample = tuple[np.ndarray, Target]
Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""
PROGRESS_EVERY = 100  # images


class Dataset(Protocol):
    """Images with targets, read one at a time; reading is deterministic.

    sample(i) -> (image uint8 [H, W, 3] RGB, target). files(i): what it is read from, the image
    first, then annotations of its own; empty where it is not read from files. check: finds what is
    wrong with the files of all images, or of those named, without decoding any; raises DatasetError.
    """

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample: ...

    def files(self, index: int) -> tuple[Path, ...]: ...

    def check(
        self, progress: Progress | None = None, indices: Sequence[int] | None = None
    ) -> None: ...


class Reader(Dataset, Protocol):
    """One split of a data set in folders, in a layout that other tools know too.

    layout: what is expected where, for messages. Raises DatasetError, naming the file and the reason:
    at the first look at its length or files what listing the folders shows, in `check` what the
    headers of the files show, in `sample` the rest. A reader whose annotations of all images lie in a
    few files names these in `shared_files() -> tuple[Path, ...]`; they are part of the data's hash.
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

    def check(self, progress: Progress | None = None, indices: Sequence[int] | None = None) -> None:
        chosen = self.indices if indices is None else [self.indices[i] for i in indices]
        self.dataset.check(progress, chosen)


@dataclass(frozen=True)
class Splits:
    """The images of a job. The search never sees `report`; names say what they are."""

    search: Dataset
    report: Dataset
    search_name: str
    report_name: str

    def check(self, progress: Progress | None = None) -> None:
        """Checks the files of both parts; see Dataset."""
        self.search.check(progress)
        self.report.check(progress)


def hold_out(dataset: Dataset, name: str, share: float) -> Splits:
    """Keeps a share of the images from the search, evenly spread, so that both parts span the set.

    Each part gets at least one image. Raises DatasetError where there are not two.
    """
    images = len(dataset)
    if images < 2:
        raise DatasetError("a search needs at least two images: one is held out for the report.")
    count = min(images - 1, max(1, round(images * share)))
    report = spread(images, count)
    search = sorted(set(range(images)) - set(report))
    return Splits(
        Subset(dataset, search), Subset(dataset, report), f"{name}:search", f"{name}:holdout"
    )


def spread(images: int, count: int) -> list[int]:
    """`count` of so many images, evenly spread: the first of a set in order of class are of one."""
    return [int((i + 0.5) * images / count) for i in range(count)]


def for_each(
    work: Callable[[int], None], indices: Sequence[int], progress: Progress | None = None
) -> None:
    """Calls `work` for each index, and now and then `progress`."""
    for done, index in enumerate(indices, 1):
        work(index)
        if progress is not None and (done % PROGRESS_EVERY == 0 or done == len(indices)):
            progress(done, len(indices))


def batches(
    dataset: Dataset, indices: Sequence[int], size: int
) -> Iterator[tuple[list[np.ndarray], list[Target]]]:
    """(images, targets) of the given indices, `size` at a time."""
    for start in range(0, len(indices), size):
        samples = [dataset.sample(i) for i in indices[start : start + size]]
        yield [s[0] for s in samples], [s[1] for s in samples]


def shard_indices(images: int, shard: int, shards: int) -> list[int]:
    """The images of one shard; sizes differ by at most one.

    Shards are slices of a fixed random order: the first few of them are a random sample of a set
    that lies in order of class or of place, too.
    """
    order = _random_order(images)
    return order[images * shard // shards : images * (shard + 1) // shards]


@lru_cache(maxsize=8)
def _random_order(images: int) -> list[int]:
    # random() of the standard library is the same on every version of Python and of everything else.
    draw = random.Random(images).random
    keys = [draw() for _ in range(images)]
    return sorted(range(images), key=keys.__getitem__)
