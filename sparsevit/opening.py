"""Opening of files that strangers named: only where they were found when they were named.

A path is looked up anew each time it is opened, and by then a folder on the way may have been
replaced by a link. So a process that reads for others says beforehand where the files lie
(`confine`), and each file is asked for its place once it is open: that is the place of the
descriptor, which then is read and which no exchange of names can change any more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sparsevit.errors import DatasetError, SparseViTError

_places: dict[str, tuple[str, ...]] = {}


def confine(places: Mapping[str, Collection[str]]) -> None:
    """From now on, what is opened at or below a key must really lie at or below one of its places.

    Both are absolute paths, the places without a link. Paths below no key are not confined; where
    nothing is, as in a process that reads its own files, files are opened as ever. Linux only.
    """
    global _places
    _places = {named: tuple(real) for named, real in places.items()}


def open_file(path: str | Path, error: type[SparseViTError] = DatasetError) -> BinaryIO:
    """A file to read bytes of. Raises OSError, and `error` where it is not in its place."""

    def opener(name: str, flags: int) -> int:
        # A pipe in a file's stead must not hold the process.
        descriptor = os.open(name, flags | os.O_NONBLOCK)
        try:
            _check_place(descriptor, path, error)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    return open(path, "rb", opener=opener)


@contextmanager
def open_folder(path: str | Path) -> Iterator[int]:
    """A descriptor of a folder to list. Raises OSError, and DatasetError as `open_file`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_place(descriptor, path, DatasetError)
        yield descriptor
    finally:
        os.close(descriptor)


def facts_in_place(path: str | Path, error: type[SparseViTError]) -> os.stat_result:
    """What `stat` says of a file or folder in its place; raises as `open_file`."""
    if not _allowed(path):  # and so on systems that have no such descriptors
        return os.stat(path)
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _check_place(descriptor, path, error)
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def path_of(file: BinaryIO) -> Path:
    """A path by which code that takes no open file opens this one, wherever its name leads by now."""
    return Path(f"/proc/self/fd/{file.fileno()}") if _allowed(file.name) else Path(file.name)


def _check_place(descriptor: int, path: str | Path, error: type[SparseViTError]) -> None:
    """Raises `error` where what was opened at a confined path lies elsewhere, or is a pipe."""
    allowed = _allowed(path)
    if not allowed:
        return
    real = os.readlink(f"/proc/self/fd/{descriptor}")
    mode = os.fstat(descriptor).st_mode
    if not (_below(real, allowed) and (stat.S_ISREG(mode) or stat.S_ISDIR(mode))):
        raise error(
            f"{path} changed after the search was submitted: it leads elsewhere now. Submit the "
            "search again, and leave its files alone until it has ended."
        )


def _allowed(path: str | Path) -> tuple[str, ...]:
    """The places of a path; none where it is not confined."""
    if not _places:
        return ()
    named = os.path.abspath(path)
    return next((real for key, real in _places.items() if _below(named, (key,))), ())


def _below(path: str, places: Collection[str]) -> bool:
    """Whether a path is one of the places or below one."""
    return any(path == place or path.startswith(os.path.join(place, "")) for place in places)
