"""Semantic segmentation from folders: `images/SPLIT/NAME.jpg|png`, `annotations/SPLIT/NAME.png`.

The layout of OpenMMLab's converted sets. A label image holds one class index per pixel; 255 is
ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsevit.data.label_maps import IGNORED, LabelMaps, pair_up
from sparsevit.data.listing import split_folder
from sparsevit.errors import DatasetError


@dataclass(frozen=True)
class SegmentationFolder(LabelMaps):
    """One split of a folder of images and label images whose numbers are class indices."""

    layout: ClassVar[str] = "images/SPLIT/NAME.jpg and annotations/SPLIT/NAME.png"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (root / "images").is_dir() and (root / "annotations").is_dir()

    @property
    def folder(self) -> str:
        """The split's name on disk."""
        return self.split

    def _list(self) -> list[tuple[Path, Path]]:
        images, annotations = (
            split_folder(self.root, self.folder, self.layout, inside)
            for inside in ("images", "annotations")
        )
        return pair_up(self.root, images, annotations)

    def _classes(self, labels: np.ndarray, path: Path) -> np.ndarray:
        wrong = labels[(labels >= len(self.class_names)) & (labels != IGNORED)]
        if len(wrong):
            raise DatasetError(
                f"{path} holds the class {wrong.min()}; the model knows 0 to "
                f"{len(self.class_names) - 1}, and {IGNORED} for ignored pixels."
            )
        return labels
