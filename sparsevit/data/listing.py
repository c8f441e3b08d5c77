"""Listing of folders that strangers made: fast on a million files, and never out of the data set."""

from __future__ import annotations

import os
from pathlib import Path

from sparsevit.errors import DatasetError
from sparsevit.opening import open_folder


def check_split(split: str) -> None:
    """DatasetError where a split's name is no plain name: it must not lead out of its folder."""
    if split in ("", ".", "..") or any(c in split for c in "/\\\0"):
        raise DatasetError(f"the split {split!r} is no name of a folder.")


def split_folder(root: Path, split: str, layout: str, inside: str = "") -> str:
    """The folder of a split, root / inside / split.

    layout: what is expected where, with SPLIT for the split's name. DatasetError where there is no
    such folder, or where a link on the way leads out of the data set.
    """
    folder = os.path.join(root, inside, split)
    if not os.path.isdir(folder):
        expected = layout.replace("SPLIT", split)
        raise DatasetError(f"there is no folder {folder}: expected {expected} under {root}.")
    check_link(folder, os.path.realpath(root))
    return folder


def list_folder(folder: str, root: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(names of the files with one of the suffixes, whatever their case; names of the folders), sorted.

    root: the data set's real path. One pass over the entries: only links are looked up. DatasetError
    names a file that is none (a dangling link, a pipe), and a link out of the data set.
    """
    files, folders = [], []
    try:
        with open_folder(folder) as descriptor, os.scandir(descriptor) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                wanted = entry.name.lower().endswith(suffixes)
                if entry.is_symlink() and (wanted or entry.is_dir()):
                    check_link(path, root)
                if entry.is_dir():
                    folders.append(entry.name)
                elif wanted:
                    if not entry.is_file():
                        raise DatasetError(f"{path} is no file.")
                    files.append(entry.name)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error}.") from error
    return sorted(files), sorted(folders)


def list_files(folder: str, root: str, suffixes: tuple[str, ...]) -> list[str]:
    """The file names of `list_folder`, where a folder that is named like a file is an error too."""
    files, folders = list_folder(folder, root, suffixes)
    for name in folders:
        if name.lower().endswith(suffixes):
            raise DatasetError(f"{os.path.join(folder, name)} is no file.")
    return files


def check_link(path: str, root: str) -> None:
    """DatasetError where a path leads out of the data set, whose real path is `root`."""
    real = os.path.realpath(path)
    if real != root and not real.startswith(os.path.join(root, "")):
        raise DatasetError(f"{path} is a link out of the data set.")
