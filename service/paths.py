"""Resolves paths that callers name, under an allow-list of folders.

What lies outside the roots is never looked at, so an answer tells nothing about it: a path outside
is refused the same way whether something is there or not.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from service.domain.errors import ArtifactNotFound, PathNotAllowed, UrlNotAllowed

MAX_CHARACTERS = 4096

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What was at a path when it was resolved; a worker refuses to read anything else there.

    `path` has no symlink in it; `size` in bytes.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int

    def to_dict(self) -> dict[str, str | int]:
        """The record as JSON."""
        return asdict(self)


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
