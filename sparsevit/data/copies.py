"""Images that two data sets share: the same file by two names, or a copy of it."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator
from pathlib import Path

from sparsevit.data.base import Dataset
from sparsevit.errors import DatasetError

PIECE = 4096  # bytes compared first: of two images of equal size these nearly always differ


def copies(known: Dataset, dataset: Dataset) -> Iterator[tuple[int, Path]]:
    """(index in `dataset`, file in `known`) of every image of `dataset` that is also in `known`.

    It is there where it is the same file (a link), or where all bytes are equal. Cheap on large sets:
    only files whose size occurs in both are opened, and nearly always one small piece is read.
    Memory grows with `known`, so that is the smaller one.
    """
    sizes: dict[int, list[int]] = {}
    for index in range(len(known)):
        for path in known.files(index)[:1]:
            sizes.setdefault(_stat(path).st_size, []).append(index)
    pieces: dict[int, dict[int, list[int]]] = {}  # of the sizes met so far: piece -> indices
    for index in range(len(dataset)):
        for path in dataset.files(index)[:1]:
            size = _stat(path).st_size
            if size not in sizes:
                continue
            if size not in pieces:
                pieces[size] = _by_piece(known, sizes[size], size)
            alike = (known.files(i)[0] for i in pieces[size].get(_piece(path, size), ()))
            if (same := next((other for other in alike if _equal(path, other)), None)) is not None:
                yield index, same


def _by_piece(dataset: Dataset, indices: list[int], size: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index in indices:
        found.setdefault(_piece(dataset.files(index)[0], size), []).append(index)
    return found


def _piece(path: Path, size: int) -> int:
    """A hash of bytes from the middle: the heads of images are much alike."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(max(0, (size - PIECE) // 2))
            return hash(file.read(PIECE))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error


def _equal(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other) or filecmp.cmp(path, other, shallow=False)
    except OSError as error:
        raise DatasetError(f"{path} or {other} cannot be read: {error}.") from error


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
