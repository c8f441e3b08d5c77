"""From the `dataset` of a request to data sets: built-in names and paths."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsevit.data.base import Dataset, Splits, Subset, hold_out, spread
from sparsevit.data.copies import copies, image_files
from sparsevit.data.digits import CLASSES, DigitCanvases
from sparsevit.errors import DatasetError
from sparsevit.opening import open_file

if TYPE_CHECKING:
    from sparsevit.tasks.base import TaskModel

DatasetLike = str | Path | Mapping[str, Any]

DIGITS = "builtin:digits"
DIGITS_TASK = "semantic_segmentation"
DIGITS_IMAGES = 128  # canvases of a split, where no limit is given
DIGITS_TRAINING_IMAGES = 4096
# The release makes the same canvases from the same indices: its version stands for their pixels.
DIGITS_VERSION = "digits-1"
SHOWN = 5  # images that are in two splits, in the message

DEFAULTS: dict[str, Any] = {
    "format": None,
    "train_split": "train",
    "search_split": "val",
    "report_split": None,
    "limit": None,
    "holdout": 0.2,
}


def dataset_spec(dataset: DatasetLike) -> dict[str, Any]:
    """A path or a partial spec, with every default filled in."""
    given = dict(dataset) if isinstance(dataset, Mapping) else {"path": str(dataset)}
    unknown = given.keys() - DEFAULTS.keys() - {"path"}
    if unknown or "path" not in given:
        raise DatasetError(
            f"a data set has a `path` and {sorted(DEFAULTS)}, not {sorted(unknown)}."
        )
    spec = DEFAULTS | given
    if not 0 < spec["holdout"] < 1:
        raise DatasetError(f"holdout is {spec['holdout']!r}; it is a share between 0 and 1.")
    if spec["limit"] is not None and spec["limit"] < 1:
        raise DatasetError(f"limit is {spec['limit']!r}; it is a number of images, or null.")
    return spec


def open_training(dataset: DatasetLike, task: TaskModel, checked: bool = False) -> Dataset:
    """The training split, as the task reads it. checked: it was opened before, and so is known to
    share no image with the other splits: on large sets finding that out takes long."""
    spec = dataset_spec(dataset)
    if spec["path"] == DIGITS:
        _check_digits(task)
        return DigitCanvases("train", DIGITS_TRAINING_IMAGES, seed=2)
    if spec["train_split"] in (spec["search_split"], spec["report_split"]):
        raise DatasetError(
            f"the split {spec['train_split']!r} is searched or reported on: train on another one."
        )
    training = _open(spec, spec["train_split"], task)
    if not checked:
        splits = open_splits(spec, task)
        _check_apart(training, "training", {"search": splits.search, "report": splits.report})
    return training


def open_splits(dataset: DatasetLike, task: TaskModel) -> Splits:
    """The search and the report split; without a named report split a part is held out."""
    spec = dataset_spec(dataset)
    if spec["path"] == DIGITS:
        _check_digits(task)
        return _digits_splits(spec)
    search = _limited(_open(spec, spec["search_split"], task), spec["limit"])
    if spec["report_split"] is None:
        return _hold_out(search, spec["search_split"], spec["holdout"])
    if spec["report_split"] == spec["search_split"]:
        raise DatasetError("report_split must differ from search_split, or be left out.")
    report = _open(spec, spec["report_split"], task)
    _check_apart(search, "search", {"report": report})
    return Splits(search, report, spec["search_split"], spec["report_split"])


def open_split(dataset: DatasetLike, task: TaskModel, split: str) -> Dataset:
    """One split by the name that metrics state: "val" as far as `limit` goes, or a part of it that a
    search leaves or holds out, "val:search" or "val:holdout"."""
    name, _, part = split.partition(":")
    spec = dataset_spec(dataset)
    digits = spec["path"] == DIGITS
    if not digits:
        spec |= {"search_split": name, "report_split": None}
        if not part:
            return _limited(_open(spec, name, task), spec["limit"])
    splits = open_splits(spec, task)
    parts = {splits.search_name: splits.search, splits.report_name: splits.report}
    if digits:
        parts["val"] = splits.search
    if split not in parts:
        raise DatasetError(f"there is no split {split!r} here; there is {', '.join(parts)}.")
    return parts[split]


def dataset_sha256(dataset: DatasetLike, task: TaskModel) -> str:
    """Hash over annotation contents and the sorted (path, size, mtime) of every file used."""
    spec = dataset_spec(dataset)
    digest = hashlib.sha256()
    if spec["path"] == DIGITS:
        digest.update(f"{DIGITS_VERSION} {spec['limit'] or DIGITS_IMAGES}".encode())
        return digest.hexdigest()
    root = Path(spec["path"])
    for split in sorted({spec["search_split"], spec["report_split"]} - {None}):
        read = _open(spec, split, task)
        shared = _shared_files(read)
        _update(digest, root, *shared, contents=shared)
        for index in range(len(read)):
            files = read.files(index)
            _update(digest, root, *files, contents=files[task.views :])
    return digest.hexdigest()


def training_sha256(dataset: DatasetLike, task: TaskModel) -> str:
    """Hash over the sorted (path, size, mtime) of every file of the training split. None is opened:
    a training in slices asks before each of them."""
    spec = dataset_spec(dataset)
    if spec["path"] == DIGITS:
        return hashlib.sha256(f"{DIGITS_VERSION} train".encode()).hexdigest()
    digest, root = hashlib.sha256(), Path(spec["path"])
    data = open_training(spec, task, checked=True)
    _update(digest, root, *_shared_files(data))
    for index in range(len(data)):
        _update(digest, root, *data.files(index))
    return digest.hexdigest()


def _shared_files(dataset: Dataset) -> tuple[Path, ...]:
    """Annotations of all images together; a reader whose images have files of their own has none."""
    return getattr(dataset, "shared_files", tuple)()


def _update(digest: hashlib._Hash, root: Path, *files: Path, contents: Sequence[Path] = ()) -> None:
    """contents: those of the files whose bytes count, not only name, size and time."""
    try:
        for path in files:
            facts = path.stat()
            name = path.relative_to(root)
            digest.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        for path in contents:
            with open_file(path) as file:
                digest.update(file.read())
    except OSError as error:
        raise DatasetError(f"a file of the data set cannot be read: {error}.") from error


def _open(spec: Mapping[str, Any], split: str, task: TaskModel) -> Dataset:
    """One split by the reader of the named format, or by the first that knows the folder."""
    root, readers = Path(spec["path"]), task.readers
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}.")
    name = spec["format"]
    if name is None:
        name = next((n for n, reader in readers.items() if reader.recognises(root)), None)
    if name not in readers:
        known = "; ".join(f"{n}: {reader.layout}" for n, reader in readers.items())
        asked = "" if spec["format"] is None else f" by the format {spec['format']!r}"
        raise DatasetError(
            f"{root} cannot be read{asked} for {task.task}. Formats and their layouts: {known}."
        )
    return readers[name](root, split, task.class_names)


def _check_apart(dataset: Dataset, name: str, others: Mapping[str, Dataset]) -> None:
    """No image may be in two splits: a metric would be of images that the model was fitted to."""
    known = {path: other for other, split in others.items() for path in image_files(split)}
    found = [*islice(copies(known, dataset), SHOWN + 1)]
    if not found:
        return
    shown = ", ".join(f"{dataset.files(index)[0]} (there {same})" for index, same in found[:SHOWN])
    raise DatasetError(
        f"images are both in the {name} and in the {known[found[0][1]]} split, by link or as a copy: "
        f"{shown}{', and more' if len(found) > SHOWN else ''}. Remove them from one of the two."
    )


def _hold_out(dataset: Dataset, name: str, share: float) -> Splits:
    """`hold_out`, with each image of the search that equals a held out one moved to the report."""
    splits = hold_out(dataset, name, share)
    moved = {index for index, _ in copies(image_files(splits.report), splits.search)}
    if not moved:
        return splits
    search, report = splits.search.indices, splits.report.indices
    kept = [index for position, index in enumerate(search) if position not in moved]
    if not kept:
        raise DatasetError("all images are copies of each other: none is left for the search.")
    rest = sorted({*report, *(search[position] for position in moved)})
    return replace(splits, search=Subset(dataset, kept), report=Subset(dataset, rest))


def _check_digits(task: TaskModel) -> None:
    if task.task != DIGITS_TASK or len(task.class_names) != len(CLASSES):
        raise DatasetError(
            f"{DIGITS} is for {DIGITS_TASK} with {len(CLASSES)} classes; the model is for {task.task} "
            f"with {len(task.class_names)}."
        )


def _digits_splits(spec: Mapping[str, Any]) -> Splits:
    if spec["search_split"] not in ("val", "search") or spec["report_split"] not in (
        None,
        "report",
    ):
        raise DatasetError(f"{DIGITS} has its own search and report splits: name none.")
    count = spec["limit"] or DIGITS_IMAGES
    return Splits(
        DigitCanvases("search", count), DigitCanvases("report", count), "search", "report"
    )


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    if limit is None or limit >= len(dataset):
        return dataset
    return Subset(dataset, spread(len(dataset), limit))
