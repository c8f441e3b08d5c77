"""The artefact store: files in one folder that API and workers share, named by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

WEIGHTS_SUFFIX = ".safetensors"

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


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
        if path.exists():
            return digest
        self.root.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.root, prefix=".writing-")
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
