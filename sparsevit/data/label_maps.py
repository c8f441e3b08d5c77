"""What the readers of semantic segmentation share: images with a label image each."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsevit.data.base import Progress, for_each
from sparsevit.data.images import (
    SUFFIXES,
    check_same_size,
    image_size,
    labels_size,
    read_image,
    read_labels,
)
from sparsevit.data.listing import check_split, list_files
from sparsevit.errors import DatasetError

IGNORED = 255


@dataclass(frozen=True)
class LabelMaps(ABC):
    """One split of images and label images; read one at a time, in order of name.

    A layout says where its files lie (`_list`), and what a stored number means (`_classes`).
    """

    layout: ClassVar[str]

    root: Path
    split: str
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        check_split(self.split)

    @abstractmethod
    def _list(self) -> list[tuple[Path, Path]]:
        """(image, label image) of the split, in order. DatasetError names what is missing."""

    @abstractmethod
    def _classes(self, labels: np.ndarray, path: Path) -> np.ndarray:
        """Stored numbers uint8 [H, W] to class indices; IGNORED where a pixel does not count."""

    @cached_property
    def pairs(self) -> tuple[tuple[Path, Path], ...]:
        """(image, label image) files. DatasetError names what is missing."""
        pairs = tuple(self._list())
        if not pairs:
            raise DatasetError(
                f"the split {self.split!r} of {self.root} holds no image; expected {self.layout}."
            )
        return pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[Path, ...]:
        return self.pairs[index]

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image_path, labels_path = self.pairs[index]
        image, labels = read_image(image_path), read_labels(labels_path)
        check_same_size(image_path, image.shape[:2], labels_path, labels.shape)
        return image, self._classes(labels, labels_path)

    def check(self, progress: Progress | None = None, indices: Sequence[int] | None = None) -> None:
        """Opens every image and label image (or those of `indices`), without decoding any."""
        for_each(self._check, range(len(self)) if indices is None else indices, progress)

    def _check(self, index: int) -> None:
        image, labels = self.pairs[index]
        check_same_size(image, image_size(image), labels, labels_size(labels))


def pair_up(
    root: Path, images: str, annotations: str, image_ending: str = "", label_ending: str = ".png"
) -> list[tuple[Path, Path]]:
    """The images of one folder with the label images of another, by name.

    image_ending: what an image's name ends with before its suffix; label_ending stands in its place
    in the name of the label image. DatasetError names the first file that lacks the other.
    """
    real = os.path.realpath(root)
    suffixes = tuple(image_ending.lower() + suffix for suffix in SUFFIXES)
    found = {}
    for name in list_files(images, real, suffixes):
        stem = os.path.splitext(name)[0]
        stem = stem[: len(stem) - len(image_ending)]
        if stem in found:
            raise DatasetError(f"{images}: {found[stem]} and {name} would share one annotation.")
        found[stem] = name
    labelled = {
        name[: -len(label_ending)]: name
        for name in list_files(annotations, real, (label_ending.lower(),))
    }
    for stem, name in found.items():
        if stem not in labelled:
            raise DatasetError(
                f"{images}/{name} has no annotation {annotations}/{stem}{label_ending}."
            )
    for stem, name in labelled.items():
        if stem not in found:
            raise DatasetError(f"{annotations}/{name} is of an image that is not in {images}.")
    return [(Path(images, name), Path(annotations, labelled[stem])) for stem, name in found.items()]
