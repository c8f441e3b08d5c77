"""The artefact store: files in one folder that API and workers share, named by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

WEIGHTS_SUFFIX = ".safetensors"
TRAININGS = "training"
"""Folder in which trainings work until their files are kept."""

_HALF = (".writing-", ".removing-")
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store. size: bytes. changed_at: when it was last stored, in seconds."""

    path: Path
    digest: str
    size: int
    changed_at: float


class ArtefactStore:
    """Files under `root`. A file, once there, never changes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, data: bytes) -> str:
        """Stores `data` and returns its SHA-256, by which it is found again.

        Written beside its place and renamed into it: no reader ever sees half a file.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        with contextlib.suppress(OSError):
            os.utime(path)  # it counts as new again: see `discard`
            return digest
        self.root.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.root, prefix=_HALF[0])
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files for their owner alone; API and worker may be different users.
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return digest

    def adopt(self, file: Path, digest: str, suffix: str = "") -> None:
        """Moves a file, whose SHA-256 is `digest`, from a folder on the same disk into its place.

        It may be there already: moved before, by a transaction that did not come to its end.
        Raises FileNotFoundError where it is in neither place.
        """
        path = self.path(digest, suffix)
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        except FileNotFoundError:
            if path.exists():
                return
            raise
        os.chmod(file, 0o644)
        os.replace(file, path)

    def remove(self, digest: str) -> None:
        """Removes a file nobody refers to any more, if it is there."""
        self.path(digest).unlink(missing_ok=True)

    def files(self) -> list[StoredFile]:
        """Every file of the store, and what is left of writing or removing one."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root) as entries:
            for entry in entries:
                digest = entry.name.removesuffix(WEIGHTS_SUFFIX)
                if _DIGEST.fullmatch(digest) or entry.name.startswith(_HALF):
                    with contextlib.suppress(FileNotFoundError):
                        facts = entry.stat(follow_symlinks=False)
                        size, changed_at = facts.st_size, facts.st_mtime
                        found.append(StoredFile(Path(entry.path), digest, size, changed_at))
        return sorted(found, key=lambda file: file.path)

    def discard(self, file: StoredFile, before: float) -> None:
        """Removes a file that nobody has stored since then, a time in seconds.

        It is moved aside first: who stores it at this very moment either finds it gone and writes
        it anew, or has renewed its time.
        """
        aside = file.path.with_name(_HALF[1] + file.path.name.removeprefix(_HALF[1]))
        with contextlib.suppress(FileNotFoundError):
            os.replace(file.path, aside)
            if aside.stat().st_mtime < before:
                aside.unlink()
            else:
                os.replace(aside, file.path)

    def get(self, digest: str) -> bytes | None:
        """The stored bytes; None where the file is gone."""
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            return None

    def path(self, digest: str, suffix: str = "") -> Path:
        """Where the file of that SHA-256 is, or would be.

        suffix: for files that users and the library know by their ending, such as WEIGHTS_SUFFIX.
        """
        if _DIGEST.fullmatch(digest) is None:
            raise ValueError("an artefact is named by 64 hex digits")
        return self.root / (digest + suffix)
