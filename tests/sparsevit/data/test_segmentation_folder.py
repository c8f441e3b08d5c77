from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevit.data.segmentation_folder import SegmentationFolder
from sparsevit.data.sources import dataset_sha256, dataset_spec, open_splits
from sparsevit.errors import DatasetError
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.semantic import SegmentationModel

NAMES = ("road", "car", "sky", "tree")


@pytest.fixture
def model() -> SegmentationModel:
    backbone = SparseSwin(SwinConfig(embed_dim=8, depths=(2,), num_heads=(1,)))
    return SegmentationModel(backbone, NAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("val", 10), ("test", 3)):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "images" / split / f"{i:02}.jpg")
            labels = rng.integers(0, 4, (20, 30), dtype=np.uint8)
            Image.fromarray(labels).save(tmp_path / "annotations" / split / f"{i:02}.png")
    return tmp_path


def annotation(folder: Path, name: str = "00.png") -> Path:
    return folder / "annotations" / "val" / name


def test_reads_images_and_labels(folder: Path) -> None:
    data = SegmentationFolder(folder, "val", NAMES)
    image, labels = data.sample(3)
    assert len(data) == 10
    assert image.shape == (20, 30, 3)
    assert labels.shape == (20, 30)
    assert labels.max() == 3


def test_a_part_is_held_out_where_no_report_split_is_named(
    folder: Path, model: SegmentationModel
) -> None:
    splits = open_splits({"path": str(folder)}, model)
    assert (splits.search_name, splits.report_name) == ("val:search", "val:holdout")
    assert set(splits.search.indices).isdisjoint(splits.report.indices)
    assert len(splits.search) + len(splits.report) == 10
    assert len(splits.report) == 2


@pytest.mark.parametrize(("limit", "report"), [(2, 1), (3, 1), (5, 1), (10, 2)])
def test_each_part_of_a_hold_out_gets_an_image(
    folder: Path, model: SegmentationModel, limit: int, report: int
) -> None:
    splits = open_splits({"path": str(folder), "limit": limit}, model)
    assert (len(splits.search), len(splits.report)) == (limit - report, report)


def test_one_image_cannot_be_held_out(folder: Path, model: SegmentationModel) -> None:
    with pytest.raises(DatasetError, match="at least two images"):
        open_splits({"path": str(folder), "limit": 1}, model)


def test_a_named_report_split_is_used_whole(folder: Path, model: SegmentationModel) -> None:
    splits = open_splits({"path": str(folder), "report_split": "test"}, model)
    assert (len(splits.search), len(splits.report)) == (10, 3)
    with pytest.raises(DatasetError, match="must differ"):
        open_splits({"path": str(folder), "report_split": "val"}, model)


def test_limit_takes_images_from_the_whole_set(folder: Path, model: SegmentationModel) -> None:
    splits = open_splits({"path": str(folder), "report_split": "test", "limit": 4}, model)
    assert [splits.search.files(i)[0].stem for i in range(4)] == ["01", "03", "06", "08"]


def test_the_hash_sees_annotations_and_files(folder: Path, model: SegmentationModel) -> None:
    before = dataset_sha256(str(folder), model)
    assert dataset_sha256(str(folder), model) == before
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(annotation(folder))
    assert dataset_sha256(str(folder), model) != before


def test_the_hash_names_a_file_that_went_away(
    folder: Path, model: SegmentationModel, monkeypatch
) -> None:
    pairs = SegmentationFolder(folder, "val", NAMES).pairs
    monkeypatch.setattr(SegmentationFolder, "pairs", pairs)  # listed before it went
    annotation(folder).unlink()
    with pytest.raises(DatasetError, match=r"cannot be read: .*val/00\.png"):
        dataset_sha256(str(folder), model)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(DatasetError, match="splits"):
        dataset_spec({"path": "/x", "splits": 3})


def spoil_missing(folder: Path) -> None:
    annotation(folder).unlink()


def spoil_range(folder: Path) -> None:
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(annotation(folder))


def spoil_size(folder: Path) -> None:
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(annotation(folder))


def spoil_colour(folder: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(annotation(folder))


def spoil_truncated(folder: Path) -> None:
    image = folder / "images" / "val" / "00.jpg"
    image.write_bytes(image.read_bytes()[:200])


def spoil_format(folder: Path) -> None:
    Image.new("RGB", (30, 20)).save(folder / "images" / "val" / "00.jpg", format="BMP")


def spoil_later_chunk(folder: Path) -> None:
    """A sound start of a PNG, then a chunk that is none: PIL raises SyntaxError."""
    noise = np.random.default_rng(1).integers(0, 4, (400, 800), dtype=np.uint8)
    Image.fromarray(noise).save(annotation(folder))
    raw = annotation(folder).read_bytes()
    second = raw.index(b"IDAT", raw.index(b"IDAT") + 4)
    annotation(folder).write_bytes(raw[:second] + b"\xff\xff\xff\xff" + raw[second + 4 :])


def spoil_directory(folder: Path) -> None:
    (folder / "images" / "val" / "00.jpg").unlink()
    (folder / "images" / "val" / "00.jpg").mkdir()


def spoil_link(folder: Path) -> None:
    annotation(folder).unlink()
    annotation(folder).symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_missing, "no annotation"),
        (spoil_range, "class 9"),
        (spoil_size, "must match"),
        (spoil_colour, "one 8-bit class index"),
        (spoil_truncated, "cannot be read"),
        (spoil_format, "cannot be read"),
        (spoil_later_chunk, r"00\.png cannot be read"),
        (spoil_directory, "is no file"),
        (spoil_link, "link out"),
    ],
)
def test_files_that_cannot_be_used_are_named(folder: Path, spoil, says: str) -> None:
    spoil(folder)
    with pytest.raises(DatasetError, match=says):
        SegmentationFolder(folder, "val", NAMES).sample(0)


@pytest.mark.parametrize("error", [SyntaxError, struct.error, zlib.error, OverflowError, KeyError])
def test_whatever_a_decoder_raises_names_the_file(folder: Path, monkeypatch, error: type) -> None:
    def fail(image: Image.Image) -> None:
        raise error("broken")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(DatasetError, match=r"00\.jpg cannot be read.*broken"):
        SegmentationFolder(folder, "val", NAMES).sample(0)


@pytest.mark.parametrize("split", ["", ".", "..", "../images/val", "val/..", "/etc", "a\\b", "\0"])
def test_a_split_is_one_plain_name(folder: Path, split: str) -> None:
    with pytest.raises(DatasetError, match="no name of a folder"):
        SegmentationFolder(folder, split, NAMES)


def test_a_missing_split_says_what_is_expected(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"images/nope/NAME\.jpg"):
        len(SegmentationFolder(folder, "nope", NAMES))
