"""Images that two data sets share: the same file by two names, or a copy of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from sparsevit.data.base import Dataset
from sparsevit.errors import DatasetError
from sparsevit.opening import open_file

PIECE = 4096  # bytes compared first: of two images of equal size these nearly always differ
BLOCK = 2**16  # bytes compared at a time


def copies(known: Iterable[Path], dataset: Dataset) -> Iterator[tuple[int, Path]]:
    """(index in `dataset`, known file) of every image of `dataset` that is also a known file.

    It is where it is the same file (a link), or where all bytes are equal. Cheap on large sets: only
    files whose size occurs in both are opened, and nearly always one small piece of them is read.
    Memory grows with `known` alone.
    """
    sizes: dict[int, list[Path]] = {}
    for path in known:
        sizes.setdefault(_size(path), []).append(path)
    pieces: dict[int, dict[int, list[Path]]] = {}  # of the sizes met so far: piece -> files
    for index in range(len(dataset)):
        path = dataset.files(index)[0]
        size = _size(path)
        if size not in sizes:
            continue
        if size not in pieces:
            pieces[size] = _by_piece(sizes[size], size)
        alike = pieces[size].get(_piece(path, size), ())
        same = next((other for other in alike if _equal(path, other)), None)
        if same is not None:
            yield index, same


def image_files(dataset: Dataset) -> list[Path]:
    return [dataset.files(index)[0] for index in range(len(dataset))]


def _by_piece(paths: Iterable[Path], size: int) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for path in paths:
        found.setdefault(_piece(path, size), []).append(path)
    return found


def _piece(path: Path, size: int) -> int:
    """A hash of bytes from the middle: the heads of images are much alike."""
    try:
        with open_file(path) as file:
            file.seek(max(0, (size - PIECE) // 2))
            return hash(file.read(PIECE))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error


def _equal(path: Path, other: Path) -> bool:
    try:
        with open_file(path) as file, open_file(other) as same:
            if os.path.sameopenfile(file.fileno(), same.fileno()):
                return True
            return all(a == b for a, b in zip_longest(_blocks(file), _blocks(same)))
    except OSError as error:
        raise DatasetError(f"{path} or {other} cannot be read: {error}.") from error


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(BLOCK), b"")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
