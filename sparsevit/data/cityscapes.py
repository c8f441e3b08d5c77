"""Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`.

Pixels hold label ids, 0 to 33; models learn 19 of them, by their train ids.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsevit.data.label_maps import IGNORED, LabelMaps, pair_up
from sparsevit.data.listing import list_folder, split_folder
from sparsevit.errors import DatasetError

IMAGES, LABELS = "leftImg8bit", "gtFine"
# id: (name, train id). The official table; the licence plate's id, -1, is never drawn.
LABEL_IDS: dict[int, tuple[str, int]] = {
    0: ("unlabeled", IGNORED),
    1: ("ego vehicle", IGNORED),
    2: ("rectification border", IGNORED),
    3: ("out of roi", IGNORED),
    4: ("static", IGNORED),
    5: ("dynamic", IGNORED),
    6: ("ground", IGNORED),
    7: ("road", 0),
    8: ("sidewalk", 1),
    9: ("parking", IGNORED),
    10: ("rail track", IGNORED),
    11: ("building", 2),
    12: ("wall", 3),
    13: ("fence", 4),
    14: ("guard rail", IGNORED),
    15: ("bridge", IGNORED),
    16: ("tunnel", IGNORED),
    17: ("pole", 5),
    18: ("polegroup", IGNORED),
    19: ("traffic light", 6),
    20: ("traffic sign", 7),
    21: ("vegetation", 8),
    22: ("terrain", 9),
    23: ("sky", 10),
    24: ("person", 11),
    25: ("rider", 12),
    26: ("car", 13),
    27: ("truck", 14),
    28: ("bus", 15),
    29: ("caravan", IGNORED),
    30: ("trailer", IGNORED),
    31: ("train", 16),
    32: ("motorcycle", 17),
    33: ("bicycle", 18),
}
CLASS_NAMES = tuple(name for name, train_id in LABEL_IDS.values() if train_id != IGNORED)
"""The 19 classes that models learn, in the order of their train ids."""


@dataclass(frozen=True)
class Cityscapes(LabelMaps):
    """One split of the finely annotated images; targets are the model's class indices.

    A model that names its classes as Cityscapes does may have them in any order; classes by other
    names are taken to be in the order of the train ids.
    """

    layout: ClassVar[str] = (
        f"{IMAGES}/SPLIT/CITY/NAME_leftImg8bit.png and {LABELS}/SPLIT/CITY/NAME_gtFine_labelIds.png"
    )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (root / IMAGES).is_dir() and (root / LABELS).is_dir()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.class_names) != len(CLASS_NAMES):
            raise DatasetError(
                f"{self.root} is Cityscapes, of {len(CLASS_NAMES)} classes; the model tells "
                f"{len(self.class_names)} apart."
            )

    def _list(self) -> list[tuple[Path, Path]]:
        images, labels = (
            split_folder(self.root, self.split, self.layout, inside) for inside in (IMAGES, LABELS)
        )
        real, pairs = os.path.realpath(self.root), []
        for city in list_folder(images, real, ())[1]:
            folder = split_folder(self.root, city, self.layout, os.path.join(LABELS, self.split))
            pairs += pair_up(
                self.root,
                os.path.join(images, city),
                folder,
                image_ending="_leftImg8bit",
                label_ending="_gtFine_labelIds.png",
            )
        for city in list_folder(labels, real, ())[1]:
            if not os.path.isdir(os.path.join(images, city)):
                raise DatasetError(f"{labels}/{city} is of a city that is not in {images}.")
        return pairs

    @cached_property
    def _table(self) -> np.ndarray:
        """Label id to class index: uint8 [34]."""
        ordered = [*self.class_names]
        if set(ordered) != set(CLASS_NAMES):
            ordered = [*CLASS_NAMES]
        indices = {name: index for index, name in enumerate(ordered)}
        return np.array(
            [indices.get(name, IGNORED) for name, _ in LABEL_IDS.values()], dtype=np.uint8
        )

    def _classes(self, labels: np.ndarray, path: Path) -> np.ndarray:
        if labels.max() >= len(LABEL_IDS):
            raise DatasetError(
                f"{path} holds the label id {labels[labels >= len(LABEL_IDS)].min()}; Cityscapes has "
                f"0 to {len(LABEL_IDS) - 1}."
            )
        return self._table[labels]
