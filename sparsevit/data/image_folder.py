"""Classification from folders: `SPLIT/CLASS/*.jpg|png`, as torchvision's ImageFolder reads them.

The layout of ImageNet, whose class folders are named by WordNet ids.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from sparsevit.data.base import Progress, for_each
from sparsevit.data.images import SUFFIXES, image_size, read_image
from sparsevit.data.listing import check_split, list_folder, split_folder
from sparsevit.errors import DatasetError

# What torchvision would read as well: passed over in silence, indices would differ from its own.
OTHER_SUFFIXES = (".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

SHOWN = 3  # classes, in messages


class _Folder(NamedTuple):
    """The images of one folder; names alone are kept, since a set may have a million."""

    path: str
    target: int
    names: list[str]


@dataclass(frozen=True)
class ImageFolder:
    """One split of images in one folder a class; a target is the index of the class, int.

    Images come by class, then by folder, then by name. Where every folder is named like one of
    class_names it stands for that class, and classes may be without a folder; else there must be as
    many folders as classes, and their sorted order is the classes' order.
    """

    layout: ClassVar[str] = "SPLIT/CLASS/NAME.jpg"

    root: Path
    split: str
    class_names: Sequence[str]

    @classmethod
    def recognises(cls, root: Path) -> bool:
        try:
            return any(child.is_dir() for split in root.iterdir() if split.is_dir()
                       for child in split.iterdir())  # fmt: skip
        except OSError:
            return False

    def __post_init__(self) -> None:
        check_split(self.split)

    @cached_property
    def _folders(self) -> list[_Folder]:
        top, real = split_folder(self.root, self.split, self.layout), os.path.realpath(self.root)
        names = list_folder(top, real, ())[1]
        if not names:
            raise DatasetError(
                f"{top} holds no folder; expected {self.layout}, one folder a class."
            )
        folders = []
        for name, target in _class_indices(names, self.class_names, top).items():
            path = os.path.join(top, name)
            inside = sorted(_walk(path, real, (os.path.realpath(path),)))
            if not any(files for _, files in inside):
                raise DatasetError(
                    f"the class folder {path} holds no image ({', '.join(SUFFIXES)})."
                )
            folders += [_Folder(path, target, files) for path, files in inside if files]
        return folders

    @cached_property
    def _ends(self) -> list[int]:
        """How many images there are up to the end of each folder."""
        return list(accumulate(len(folder.names) for folder in self._folders))

    def _locate(self, index: int) -> tuple[Path, int]:
        """(file, class index)"""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        which = bisect_right(self._ends, index)
        folder = self._folders[which]
        return Path(folder.path, folder.names[index - self._ends[which]]), folder.target

    def __len__(self) -> int:
        return self._ends[-1]

    def files(self, index: int) -> tuple[Path, ...]:
        return (self._locate(index)[0],)

    def sample(self, index: int) -> tuple[np.ndarray, int]:
        path, target = self._locate(index)
        return read_image(path), target

    def check(self, progress: Progress | None = None, indices: Sequence[int] | None = None) -> None:
        """Opens every image (or those of `indices`), without decoding any."""
        chosen = range(len(self)) if indices is None else indices
        for_each(lambda index: image_size(self._locate(index)[0]), chosen, progress)


def _class_indices(folders: Sequence[str], names: Sequence[str], top: str) -> dict[str, int]:
    """The class index of each folder. DatasetError names a folder that stands for no class."""
    count = Counter(names)
    known = {name: index for index, name in enumerate(names) if count[name] == 1}
    unknown = [folder for folder in folders if folder not in known]
    if not unknown:
        return {folder: known[folder] for folder in folders}
    if len(unknown) == len(folders) == len(names):
        return {folder: index for index, folder in enumerate(folders)}
    if len(unknown) < len(folders):  # named like classes: the order of the others would be a guess
        raise DatasetError(
            f"the class folder {os.path.join(top, unknown[0])} is none of the model's "
            f"{len(names)} classes, though other folders are: name every folder like its class "
            f"({', '.join(names[:SHOWN])}, ...)."
        )
    raise DatasetError(
        f"the class folder {os.path.join(top, unknown[0])} is none of the model's classes, and "
        f"{len(folders)} folders cannot stand in order for its {len(names)} classes: name every folder "
        f"like its class ({', '.join(names[:SHOWN])}, ...), or add a folder for each that is missing."
    )


def _walk(folder: str, root: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its images) of a folder and of all inside; above: their real paths."""
    files, folders = list_folder(folder, root, SUFFIXES + OTHER_SUFFIXES)
    for name in files:
        if name.lower().endswith(OTHER_SUFFIXES):
            raise DatasetError(
                f"{os.path.join(folder, name)}: only {', '.join(SUFFIXES)} are read."
            )
    yield folder, files
    for name in folders:
        inside = os.path.join(folder, name)
        real = os.path.realpath(inside)
        if real in above:
            raise DatasetError(f"{inside} is a link to a folder that holds it.")
        yield from _walk(inside, root, (*above, real))
