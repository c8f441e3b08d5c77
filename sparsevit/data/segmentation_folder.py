"""Semantic segmentation from folders: `images/SPLIT/NAME.jpg|png`, `annotations/SPLIT/NAME.png`.

The layout of ADE20K and of OpenMMLab's converted sets. A label image holds one class index per
pixel; 255 is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsevit.data.images import SUFFIXES, read_image, read_labels
from sparsevit.errors import DatasetError

IGNORED = 255


@dataclass(frozen=True)
class SegmentationFolder:
    """One split of a folder of images and label images; read one at a time, in order of name."""

    layout: ClassVar[str] = "images/SPLIT/NAME.jpg and annotations/SPLIT/NAME.png"

    root: Path
    split: str
    class_names: Sequence[str]

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (root / "images").is_dir() and (root / "annotations").is_dir()

    def __post_init__(self) -> None:
        # One plain name: a split must not lead out of `images` and `annotations`.
        if self.split in ("", ".", "..") or any(c in self.split for c in "/\\\0"):
            raise DatasetError(f"the split {self.split!r} is no name of a folder under images.")

    @cached_property
    def pairs(self) -> tuple[tuple[Path, Path], ...]:
        """(image, annotation) files. DatasetError names what is missing."""
        images = self.root / "images" / self.split
        annotations = self.root / "annotations" / self.split
        for folder in (images, annotations):
            if not folder.is_dir():
                raise DatasetError(
                    f"there is no folder {folder}: expected images/{self.split}/NAME.jpg and "
                    f"annotations/{self.split}/NAME.png under {self.root}."
                )
        files = sorted(p for p in images.iterdir() if p.suffix.lower() in SUFFIXES)
        pairs = tuple((image, annotations / f"{image.stem}.png") for image in files)
        if not pairs:
            raise DatasetError(f"{images} holds no image ({', '.join(SUFFIXES)}).")
        for pair in pairs:
            self._check_file(*pair)
        return pairs

    def _check_file(self, image: Path, annotation: Path) -> None:
        if not image.is_file():
            raise DatasetError(f"{image} is no file.")
        if not annotation.is_file():
            raise DatasetError(f"{image.name} has no annotation {annotation}.")
        root = self.root.resolve()
        for path in (image, annotation):
            if not path.resolve().is_relative_to(root):
                raise DatasetError(f"{path} is a link out of the data set.")

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[Path, ...]:
        return self.pairs[index]

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image_path, annotation_path = self.pairs[index]
        image, labels = read_image(image_path), read_labels(annotation_path)
        if labels.shape != image.shape[:2]:
            raise DatasetError(
                f"{annotation_path} is {labels.shape}, its image {image.shape[:2]}: they must match."
            )
        wrong = np.unique(labels[(labels >= len(self.class_names)) & (labels != IGNORED)])
        if len(wrong):
            raise DatasetError(
                f"{annotation_path} holds the class {wrong[0]}; the model knows 0 to "
                f"{len(self.class_names) - 1}, and {IGNORED} for ignored pixels."
            )
        return image, labels
