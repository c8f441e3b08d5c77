"""The files of a request are the same all through its job, on every machine.

A job must not end up computing one half on one file and the other half on another. Before each
unit what stands at the path is compared with the record of POST, {"path", "size", "mtime_ns",
"inode"}, of a model folder also "files": {name: {"size", "mtime_ns"}}, with the "path" of a link. That
is cheap, but says little of contents: what is loaded is compared with the hashes that the job's
inspection found. Whatever is opened must lie where POST found it; see `sparsevit.opening`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsevit.errors import CheckpointMismatch, DatasetError, SparseViTError
from sparsevit.opening import confine, facts_in_place


def confine_to(files: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Have this process open the files of a request only where they lay at POST: a data set's inside
    its folder, a checkpoint's there or where its links led. What is built in is not confined."""
    places: dict[str, set[str]] = {}
    for record in files.values():
        if record is not None:
            inner = record.get("files", {}).values()
            links = {facts["path"] for facts in inner if "path" in facts} or _cached(record)
            places.setdefault(record["path"], set()).update({record["path"]} | links)
    confine(places)


def _cached(record: Mapping[str, Any]) -> set[str]:
    """Where links of Hugging Face's cache lead, of a job whose record does not say so: it is of an
    older version, or has none."""
    folder = Path(record["path"])
    cached = "files" in record and folder.parent.name == "snapshots"
    return {str(folder.parent.parent / "blobs")} if cached else set()


def check_files(files: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Compare {"checkpoint": record, "dataset": record} with the disk; a null record is built in.

    Raises CheckpointMismatch or DatasetError where a file is gone or is no longer the same. The
    inode is for a person to look at: a true copy on another machine has another one.
    """
    _check(files.get("checkpoint"), "checkpoint", CheckpointMismatch)
    _check(files.get("dataset"), "dataset", DatasetError)


def check_checkpoint(sha256: str, inspected: Mapping[str, str | None] | None) -> None:
    """Compare the hash of loaded weights with the inspected ones; None: not inspected yet.

    Raises CheckpointMismatch.
    """
    if inspected is not None and sha256 != inspected["checkpoint"]:
        raise CheckpointMismatch(_CHANGED.format("checkpoint"))


def check_dataset(sha256: str, inspected: Mapping[str, str | None] | None) -> None:
    """Compare the hash of a data set with the inspected one's. Raises DatasetError."""
    if inspected is not None and sha256 != inspected["dataset"]:
        raise DatasetError(_CHANGED.format("dataset"))


def check_training(sha256: str, inspected: Mapping[str, str | None] | None) -> None:
    """Compare the hash of a training split with the inspected one's. Raises DatasetError."""
    known = None if inspected is None else inspected["training"]
    if known is not None and sha256 != known:  # a job that an older version inspected has none
        raise DatasetError(_CHANGED.format("data set's training split"))


_CHANGED = (
    "The {} changed after the job was inspected, or is another one on this machine. Submit the "
    "search again, and keep the same files on every machine that runs a worker."
)


def _check(record: Mapping[str, Any] | None, what: str, error: type[SparseViTError]) -> None:
    if record is None:
        return
    _check_file(record["path"], record, what, error)
    for name, facts in record.get("files", {}).items():
        place = os.path.join(record["path"], name)
        _check_file(place, facts, f"{what}'s file {name}", error)


def _check_file(
    path: str, facts: Mapping[str, Any], what: str, error: type[SparseViTError]
) -> None:
    try:
        now = facts_in_place(path, error)
    except OSError as failure:
        raise error(
            f"The {what} cannot be read any more ({failure.strerror}). Put it back, on every "
            "machine that runs a worker, and submit the search again."
        ) from None
    # A folder's size says how a disk keeps its list of names: a copy's is another one.
    same_size = stat.S_ISDIR(now.st_mode) or now.st_size == facts["size"]
    if not same_size or now.st_mtime_ns != facts["mtime_ns"]:
        raise error(
            f"The {what} changed after the search was submitted. Submit the search again, and "
            "leave its files alone until it has ended. A copy on another machine must keep the "
            "times of the original (cp -p, rsync -t)."
        )
