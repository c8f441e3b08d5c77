"""Resolves paths that callers name, under an allow-list of folders.

What lies outside the roots is never looked at, so an answer tells nothing about it: a path outside
is refused the same way whether something is there or not.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from service.domain.errors import ArtifactNotFound, PathNotAllowed, UrlNotAllowed
from service.domain.records import Json

MAX_CHARACTERS = 4096

MODEL_SUFFIXES = (".json", ".safetensors", ".bin", ".pt", ".pth")
"""What is read of a model folder: its configs, its weights and their index."""

MAX_ENTRIES = 1000
"""Of a model folder; those that libraries write hold a dozen."""

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What was at a path when it was resolved; a worker refuses to read anything else there.

    `path` has no symlink in it; `size` in bytes. files: of a model folder, what is read of it, by
    name: {"size", "mtime_ns"}, of a link "path" as well, where it leads; None of anything else.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    files: Mapping[str, Mapping[str, int | str]] | None = None

    def to_dict(self) -> Json:
        """The record as JSON; without `files` where there are none."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class PathResolver:
    """Answers what is at a path, if the path leads to a place under one of `roots`."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._named = [os.path.normpath(root) for root in roots]
        self._real = [os.path.realpath(root) for root in roots]

    def resolve(self, text: str, pointer: str) -> FileRecord:
        """The record of the file or folder at `text`, taken literally.

        Nothing is decoded, expanded or joined: `%2e`, `~` and `..` have no meaning here.

        Raises:
            UrlNotAllowed: for http://, s3:// and the like.
            PathNotAllowed: outside the roots, relative, or neither a plain file nor a folder.
            ArtifactNotFound: a place under the roots at which nothing is.
        """
        self._check_text(text, pointer)
        real = self._real_path(text, pointer)
        try:
            found = os.lstat(real)
        except OSError:
            raise ArtifactNotFound.at(
                pointer, "nothing that the service may read is at this path"
            ) from None
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise PathNotAllowed.at(pointer, "name a file or a folder")
        return FileRecord(real, found.st_size, found.st_mtime_ns, found.st_ino)

    def resolve_checkpoint(self, text: str, pointer: str) -> FileRecord:
        """The record of a weights file, or of a model folder with the files that are read of it.

        Raises:
            PathNotAllowed, too: a file of the folder is a link out of the roots, or no plain file;
                more than MAX_ENTRIES in the folder.
            ArtifactNotFound, too: a link in the folder leads nowhere.
        """
        record = self.resolve(text, pointer)
        if not os.path.isdir(record.path):
            return record
        names = self._model_files(record.path, pointer)
        files = {name: self._inner_file(record.path, name, pointer) for name in sorted(names)}
        return replace(record, files=files)

    def _model_files(self, folder: str, pointer: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
        except OSError:
            raise ArtifactNotFound.at(pointer, "the service may not list this folder") from None
        if len(names) > MAX_ENTRIES:
            raise PathNotAllowed.at(
                pointer,
                f"a model folder holds at most {MAX_ENTRIES} files: name the weights file itself, "
                "or a folder with the model alone",
            )
        return (name for name in names if name.endswith(MODEL_SUFFIXES))

    def _inner_file(self, folder: str, name: str, pointer: str) -> dict[str, int | str]:
        named = os.path.join(folder, name)
        real = os.path.realpath(named)
        if not _under(real, self._real):
            raise PathNotAllowed.at(
                pointer, "a link in this folder leads out of what the service may read"
            )
        try:
            found = os.lstat(real)
        except OSError:
            raise ArtifactNotFound.at(pointer, "a link in this folder leads nowhere") from None
        if not stat.S_ISREG(found.st_mode):
            raise PathNotAllowed.at(
                pointer, "configs and weights of a model folder must be plain files"
            )
        facts: dict[str, int | str] = {"size": found.st_size, "mtime_ns": found.st_mtime_ns}
        return facts if real == named else {**facts, "path": real}

    def _check_text(self, text: str, pointer: str) -> None:
        scheme = _SCHEME.match(text)
        if scheme is not None and scheme[1].lower() != "file":
            raise UrlNotAllowed.at(
                pointer, "the service fetches nothing: give the absolute path of a local copy"
            )
        if len(text) > MAX_CHARACTERS or "\0" in text:
            raise PathNotAllowed.at(pointer, f"a path has at most {MAX_CHARACTERS} characters")
        if not text.startswith("/") or ".." in text.split("/"):
            raise PathNotAllowed.at(
                pointer, "give an absolute path without '..', or builtin:digits"
            )

    def _real_path(self, text: str, pointer: str) -> str:
        """The path with its symlinks followed, which must not lead out of the roots."""
        outside = PathNotAllowed.at(
            pointer,
            "this path is not under a folder the service may read: "
            "move the file, or have its folder added to DATA_ROOTS",
        )
        named = os.path.normpath(text)
        if not _under(named, [*self._named, *self._real]):
            raise outside
        try:
            real = os.path.realpath(named)
        except OSError:
            raise outside from None
        if not _under(real, self._real):
            raise outside
        return real


def _under(path: str, roots: Sequence[str]) -> bool:
    """Whether a normalised path is one of the roots or below one."""
    return any(path == root or path.startswith(root + os.sep) for root in roots)
