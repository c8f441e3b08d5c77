"""COCO: `annotations/instances_SPLIT.json` beside the images in `SPLIT/`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsevit.data.base import Progress, for_each
from sparsevit.data.coco_annotations import ImageEntry, Table, read_annotations
from sparsevit.data.images import SUFFIXES, check_whole, image_size, read_image
from sparsevit.data.instances import Instances
from sparsevit.data.listing import check_link, check_split, list_files, split_folder
from sparsevit.errors import DatasetError

CLASS_NAMES = tuple(
    """
person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant;
stop sign; parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe;
backpack; umbrella; handbag; tie; suitcase; frisbee; skis; snowboard; sports ball; kite;
baseball bat; baseball glove; skateboard; surfboard; tennis racket; bottle; wine glass; cup; fork;
knife; spoon; bowl; banana; apple; sandwich; orange; broccoli; carrot; hot dog; pizza; donut; cake;
chair; couch; potted plant; bed; dining table; toilet; tv; laptop; mouse; remote; keyboard;
cell phone; microwave; oven; toaster; sink; refrigerator; book; clock; vase; scissors; teddy bear;
hair drier; toothbrush
""".replace("\n", " ")
    .strip()
    .split("; ")
)
"""COCO's 80 things in the order of their ids, which is that of most models' outputs."""
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
CATEGORIES = dict(zip(sorted(set(range(1, 91)) - {*UNUSED_IDS}), CLASS_NAMES, strict=True))
"""COCO's names by id."""
ALIASES = {"train": "train2017", "val": "val2017"}
SHOWN = 3  # classes, in messages


@dataclass(frozen=True)
class Coco:
    """One split; a target is `Instances`. Images come in order of their ids, those without objects too.

    Where every category is named like one of class_names it stands for that class; else there must be
    as many categories as classes, and the order of their ids is the classes' order.
    The split `train` may be called train2017 on disk, and `val` val2017.
    """

    layout: ClassVar[str] = (
        "annotations/instances_SPLIT.json and SPLIT/NAME.jpg (train2017 and val2017 too)"
    )

    root: Path
    split: str
    class_names: Sequence[str]

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return any(root.glob("annotations/instances_*.json"))

    def __post_init__(self) -> None:
        check_split(self.split)

    @cached_property
    def folder(self) -> str:
        """The split's name on disk."""
        other = ALIASES.get(self.split, self.split)
        return self.split if self._annotations_of(self.split).is_file() else other

    @property
    def annotations(self) -> Path:
        """The file with all annotations. DatasetError where there is none."""
        for path in (self._annotations_of(name) for name in (self.folder, self.split)):
            if path.is_file():
                check_link(str(path), os.path.realpath(self.root))
                return path
        raise DatasetError(
            f"there is no annotation file {path}: expected {self.layout} under {self.root}."
        )

    def _annotations_of(self, split: str) -> Path:
        return Path(self.root, "annotations", f"instances_{split}.json")

    @cached_property
    def _table(self) -> Table:
        return read_annotations(self.annotations)

    @cached_property
    def images(self) -> list[tuple[Path, ImageEntry]]:
        """(file, entry) of each image. DatasetError names an image without a file."""
        path, table = self.annotations, self._table
        folder = split_folder(self.root, self.folder, self.layout)
        there = {*list_files(folder, os.path.realpath(self.root), SUFFIXES)}
        for image in table.images:
            if image.name not in there:
                raise DatasetError(
                    f"the image {image.id} of {path} has no file {os.path.join(folder, image.name)}."
                )
        if not table.images:
            raise DatasetError(f"{path} lists no image.")
        _ = self.class_of
        return [(Path(folder, image.name), image) for image in table.images]

    @cached_property
    def class_of(self) -> dict[int, int]:
        """Category id to class index."""
        return _class_indices(self._table.categories, self.class_names, self.annotations)

    def __len__(self) -> int:
        return len(self.images)

    def files(self, index: int) -> tuple[Path, ...]:
        return (self.images[index][0],)

    def shared_files(self) -> tuple[Path, ...]:
        """The annotations of all images."""
        return (self.annotations,)

    def sample(self, index: int) -> tuple[np.ndarray, Instances]:
        path, entry = self.images[index]
        image = read_image(path)
        self._check_size(path, entry, image.shape[:2])
        return image, self._instances(entry)

    def _instances(self, entry: ImageEntry) -> Instances:
        found = entry.annotations
        return Instances(
            entry.id,
            entry.size,
            np.array([self.class_of[a.category] for a in found], np.int64),
            np.array([a.box for a in found], np.float64).reshape(-1, 4),
            np.array([a.area for a in found], np.float64),
            np.array([a.crowd for a in found], bool),
            tuple(a.mask(entry.size) for a in found),
        )

    def check(self, progress: Progress | None = None, indices: Sequence[int] | None = None) -> None:
        """Looks at head and end of every image (or those of `indices`); decodes what looks cut off."""
        for_each(self._check, range(len(self)) if indices is None else indices, progress)

    def _check(self, index: int) -> None:
        path, entry = self.images[index]
        self._check_size(path, entry, image_size(path))
        check_whole(path)

    def _check_size(self, path: Path, entry: ImageEntry, found: tuple[int, ...]) -> None:
        if tuple(found) != entry.size:
            raise DatasetError(
                f"{path} is {found[0]} x {found[1]} (height x width), {self.annotations.name} says "
                f"{entry.size[0]} x {entry.size[1]} of it: they must match."
            )


def _class_indices(
    categories: Mapping[int, str], class_names: Sequence[str], path: Path
) -> dict[int, int]:
    """DatasetError names a category that the model does not know."""
    index = {name: number for number, name in enumerate(class_names)}
    unknown = [f"{name!r} (id {key})" for key, name in categories.items() if name not in index]
    if not unknown:
        return {key: index[name] for key, name in categories.items()}
    if len(unknown) == len(categories) == len(class_names):
        return {key: number for number, key in enumerate(sorted(categories))}
    shown = ", ".join(class_names[:SHOWN])
    raise DatasetError(
        f"{path} has the category {unknown[0]}, which is none of the model's {len(class_names)} "
        f"classes ({shown}, ...)"
        + (f", and so have {len(unknown) - 1} more" if len(unknown) > 1 else "")
        + ": name categories like the model's classes, or give as many as it has, in its order."
    )
