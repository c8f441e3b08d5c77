"""Training, search and report never share an image, by whatever name it goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sparsevit.data import copies as copies_module
from sparsevit.data.copies import copies, image_files
from sparsevit.data.digits import CLASSES
from sparsevit.data.segmentation_folder import SegmentationFolder
from sparsevit.data.sources import open_splits, open_training, training_sha256
from sparsevit.errors import DatasetError
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.semantic import SegmentationModel
from tests.sparsevit.data.layouts import FOLDER_NAMES, write_image, write_labels

COUNTS = {"train": 6, "val": 5, "test": 3}


@pytest.fixture
def model() -> SegmentationModel:
    backbone = SparseSwin(SwinConfig(embed_dim=8, depths=(2,), num_heads=(1,)))
    return SegmentationModel(backbone, FOLDER_NAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    seed = 0
    for split, count in COUNTS.items():
        for i in range(count):
            write_image(tmp_path / "images" / split / f"{i}.png", seed := seed + 1)
            write_labels(tmp_path / "annotations" / split / f"{i}.png", 1)
    return tmp_path


def image(folder: Path, split: str, number: int = 0) -> Path:
    return folder / "images" / split / f"{number}.png"


def copy(one: Path, other: Path) -> None:
    shutil.copy(one, other)


def hard_link(one: Path, other: Path) -> None:
    os.link(one, other)


def soft_link(one: Path, other: Path) -> None:
    other.symlink_to(one)


def share(folder: Path, one: str, other: str, how) -> None:
    """An image of the split `one` under another name in the split `other`."""
    how(image(folder, one), image(folder, other, 9))
    write_labels(folder / "annotations" / other / "9.png", 1)


def spec(folder: Path, report: str | None = "test") -> dict:
    return {"path": str(folder), "report_split": report}


def test_splits_apart_pass(folder: Path, model: SegmentationModel) -> None:
    splits = open_splits(spec(folder), model)
    assert (len(splits.search), len(splits.report)) == (5, 3)
    assert len(open_training(spec(folder), model)) == 6


@pytest.mark.parametrize("how", [copy, hard_link, soft_link])
def test_an_image_of_two_splits_is_named(folder: Path, model: SegmentationModel, how) -> None:
    share(folder, "train", "val", how)
    with pytest.raises(DatasetError, match="in the training and in the search split") as error:
        open_training(spec(folder), model)
    assert str(image(folder, "train")) in str(error.value)
    assert str(image(folder, "val", 9)) in str(error.value)


@pytest.mark.parametrize("how", [copy, hard_link, soft_link])
def test_search_and_report_share_no_image(folder: Path, model: SegmentationModel, how) -> None:
    share(folder, "test", "val", how)
    with pytest.raises(DatasetError, match="in the search and in the report split"):
        open_splits(spec(folder), model)


def test_a_held_out_part_is_kept_from_training_too(folder: Path, model: SegmentationModel) -> None:
    held_out = open_splits(spec(folder, None), model).report
    shutil.copy(held_out.files(0)[0], image(folder, "train", 9))
    write_labels(folder / "annotations" / "train" / "9.png", 1)
    with pytest.raises(DatasetError, match="in the training and in the report split"):
        open_training(spec(folder, None), model)


@pytest.mark.parametrize("how", [copy, hard_link])
def test_copies_within_a_split_are_held_out_together(
    folder: Path, model: SegmentationModel, how
) -> None:
    (held_out,) = open_splits(spec(folder, None), model).report.indices
    image(folder, "val", 0).unlink()
    how(image(folder, "val", held_out), image(folder, "val", 0))
    splits = open_splits(spec(folder, None), model)
    assert (splits.report.indices, splits.search.indices) == ([0, held_out], [1, 3, 4])
    assert not [*copies(image_files(splits.report), splits.search)]


def test_copies_of_one_image_alone_cannot_be_split(folder: Path, model: SegmentationModel) -> None:
    for number in range(1, 5):
        shutil.copy(image(folder, "val"), image(folder, "val", number))
    with pytest.raises(DatasetError, match="copies of each other"):
        open_splits(spec(folder, None), model)


def test_only_files_of_equal_size_are_read(folder: Path, monkeypatch) -> None:
    """A byte more makes another image; reading is what would take hours on a million files."""
    train, val = (SegmentationFolder(folder, split, FOLDER_NAMES) for split in ("train", "val"))
    for number, data in enumerate((train, val)):
        for index in range(len(data)):
            path = data.files(index)[0]
            path.write_bytes(b"x" * (1000 + 10 * index + number))
    val.files(2)[0].write_bytes(b"y" * 1030)  # the size of the training's fourth, other bytes
    opened = []
    real = copies_module._piece
    monkeypatch.setattr(
        copies_module, "_piece", lambda path, size: opened.append(path) or real(path, size)
    )
    assert [*copies(image_files(val), train)] == []
    assert {*opened} == {val.files(2)[0], train.files(3)[0]}


def test_equal_middles_are_no_copies(folder: Path) -> None:
    train, val = (SegmentationFolder(folder, split, FOLDER_NAMES) for split in ("train", "val"))
    size = 3 * copies_module.PIECE
    train.files(1)[0].write_bytes(b"a" + b"x" * size + b"a")
    val.files(4)[0].write_bytes(b"b" + b"x" * size + b"b")
    assert [*copies(image_files(val), train)] == []
    val.files(4)[0].write_bytes(b"a" + b"x" * size + b"a")
    assert [*copies(image_files(val), train)] == [(1, val.files(4)[0])]


def test_copies_are_looked_for_once(folder: Path, model: SegmentationModel, monkeypatch) -> None:
    """Finding none takes long on a large set, and a training in slices opens it again and again."""
    monkeypatch.setattr(copies_module, "_size", lambda path: pytest.fail(f"looked at {path}"))
    assert len(open_training(spec(folder), model, checked=True)) == 6


def test_the_hash_of_the_training_split_is_of_its_files(
    folder: Path, model: SegmentationModel
) -> None:
    def sha256() -> str:
        return training_sha256(spec(folder), model)

    seen = [sha256()]
    (folder / "images" / "val" / "0.png").touch()
    assert sha256() == seen[0]
    for path in (image(folder, "train"), folder / "annotations" / "train" / "5.png"):
        facts = path.stat()
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
        seen.append(sha256())
    share(folder, "val", "train", copy)
    seen.append(sha256())
    image(folder, "train", 9).rename(image(folder, "train", 8))
    (folder / "annotations" / "train" / "9.png").rename(folder / "annotations" / "train" / "8.png")
    seen.append(sha256())
    assert len(set(seen)) == len(seen)
    assert training_sha256("builtin:digits", model_of_digits()) not in seen


def model_of_digits() -> SegmentationModel:
    backbone = SparseSwin(SwinConfig(embed_dim=8, depths=(2,), num_heads=(1,)))
    return SegmentationModel(backbone, CLASSES)


@pytest.mark.parametrize("wrong", [{"holdout": 1.5}, {"holdout": 0.0}, {"limit": 0}])
def test_shares_and_limits_that_make_no_sense_are_named(folder: Path, model, wrong) -> None:
    with pytest.raises(DatasetError, match=f"{next(iter(wrong))} is"):
        open_splits({"path": str(folder)} | wrong, model)
