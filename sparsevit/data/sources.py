"""From the `dataset` of a request to data sets: built-in names and paths."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsevit.data.base import Dataset, Splits, Subset, hold_out
from sparsevit.data.digits import DigitCanvases
from sparsevit.data.segmentation_folder import SegmentationFolder
from sparsevit.errors import DatasetError

DIGITS = "builtin:digits"
DIGITS_IMAGES = 128  # canvases of a split, where no limit is given
DIGITS_TRAINING_IMAGES = 4096
# The release makes the same canvases from the same indices: its version stands for their pixels.
DIGITS_VERSION = "digits-1"

DEFAULTS: dict[str, Any] = {
    "train_split": "train",
    "search_split": "val",
    "report_split": None,
    "limit": None,
    "holdout": 0.2,
}


def dataset_spec(dataset: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A path or a partial spec, with every default filled in."""
    given = dict(dataset) if isinstance(dataset, Mapping) else {"path": str(dataset)}
    unknown = given.keys() - DEFAULTS.keys() - {"path"}
    if unknown or "path" not in given:
        raise DatasetError(
            f"a data set has a `path` and {sorted(DEFAULTS)}, not {sorted(unknown)}."
        )
    return DEFAULTS | given


def open_training(dataset: str | Path | Mapping[str, Any], classes: int) -> Dataset:
    """The training split."""
    spec = dataset_spec(dataset)
    if spec["path"] == DIGITS:
        return DigitCanvases("train", DIGITS_TRAINING_IMAGES, seed=2)
    return SegmentationFolder(Path(spec["path"]), spec["train_split"], classes)


def open_splits(dataset: str | Path | Mapping[str, Any], classes: int) -> Splits:
    """The search and the report split; without a named report split a part is held out."""
    spec = dataset_spec(dataset)
    if spec["path"] == DIGITS:
        if spec["search_split"] not in ("val", "search") or spec["report_split"] not in (
            None,
            "report",
        ):
            raise DatasetError(f"{DIGITS} has its own search and report splits: name none.")
        count = spec["limit"] or DIGITS_IMAGES
        search, report = DigitCanvases("search", count), DigitCanvases("report", count)
        return Splits(search, report, "search", "report")
    search_set = _limited(
        SegmentationFolder(Path(spec["path"]), spec["search_split"], classes), spec["limit"]
    )
    if spec["report_split"] is None:
        if len(search_set) < 2:
            raise DatasetError(
                "a search needs at least two images: one is held out for the report."
            )
        return hold_out(search_set, spec["search_split"], spec["holdout"])
    if spec["report_split"] == spec["search_split"]:
        raise DatasetError("report_split must differ from search_split, or be left out.")
    report_set = SegmentationFolder(Path(spec["path"]), spec["report_split"], classes)
    return Splits(search_set, report_set, spec["search_split"], spec["report_split"])


def dataset_sha256(dataset: str | Path | Mapping[str, Any], classes: int) -> str:
    """Hash over annotation contents and the sorted (path, size, mtime) of every file used."""
    spec = dataset_spec(dataset)
    digest = hashlib.sha256()
    if spec["path"] == DIGITS:
        digest.update(f"{DIGITS_VERSION} {spec['limit'] or DIGITS_IMAGES}".encode())
        return digest.hexdigest()
    root = Path(spec["path"])
    for split in sorted({spec["search_split"], spec["report_split"]} - {None}):
        for image, annotation in SegmentationFolder(root, split, classes).pairs:
            for path in (image, annotation):
                facts = path.stat()
                name = path.relative_to(root)
                digest.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
            digest.update(annotation.read_bytes())
    return digest.hexdigest()


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    if limit is None or limit >= len(dataset):
        return dataset
    return Subset(dataset, range(limit))
