"""The files of a request, as they were recorded when it was accepted.

A job must not end up computing one half on one file and the other half on another: whoever opens
them compares what stands there now with the record {"path", "size", "mtime_ns", "inode"}.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sparsevit.errors import CheckpointMismatch, DatasetError, SparseViTError


def check_files(files: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Compare {"checkpoint": record, "dataset": record} with the disk; a null record is built in.

    Raises CheckpointMismatch or DatasetError where a file is gone or is no longer the same.
    """
    _check(files.get("checkpoint"), "checkpoint", CheckpointMismatch)
    _check(files.get("dataset"), "dataset", DatasetError)


def _check(record: Mapping[str, Any] | None, what: str, error: type[SparseViTError]) -> None:
    if record is None:
        return
    try:
        now = os.stat(record["path"])
    except OSError as failure:
        raise error(
            f"The {what} cannot be read any more ({failure.strerror}). Put it back, on every "
            "machine that runs a worker, and submit the search again."
        ) from None
    recorded = (record["size"], record["mtime_ns"], record["inode"])
    if (now.st_size, now.st_mtime_ns, now.st_ino) != recorded:
        raise error(
            f"The {what} changed after the search was submitted. Submit the search again, and "
            "leave its files alone until it has ended."
        )
