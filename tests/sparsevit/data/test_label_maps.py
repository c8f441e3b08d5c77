"""Cityscapes and ADE20K: which stored number is which class, and which files belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsevit.data.ade20k import ADE20K
from sparsevit.data.cityscapes import CLASS_NAMES, LABEL_IDS, Cityscapes
from sparsevit.data.images import read_labels
from sparsevit.errors import DatasetError
from sparsevit.tasks.semantic import SegmentationModel
from tests.sparsevit.data.layouts import (
    LAYOUTS,
    SIZE,
    Layout,
    ade20k,
    cityscapes,
    grey_png,
    write_image,
    write_labels,
)


def numbers(count: int) -> np.ndarray:
    """A label image that holds every number below `count`."""
    return (np.arange(SIZE[0] * SIZE[1]) % count).reshape(SIZE)


def test_the_label_ids_are_cityscapes_own() -> None:
    from torchvision.datasets import Cityscapes as Stock

    official = [c for c in Stock.classes if c.id >= 0]
    assert [c.id for c in official] == list(LABEL_IDS)
    for c in official:
        train_id = 255 if c.train_id in (-1, 255) else c.train_id
        assert LABEL_IDS[c.id] == (c.name, train_id)
    assert len(CLASS_NAMES) == 19


def test_label_ids_become_train_ids(tmp_path: Path) -> None:
    layout = cityscapes(tmp_path)
    write_labels(layout.labels, numbers(34))
    labels = layout.open().sample(0)[1]
    expected = np.array([train_id for _, train_id in LABEL_IDS.values()])[numbers(34)]
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, expected)
    assert set(np.unique(labels)) == {*range(19), 255}


def test_classes_of_cityscapes_in_another_order_are_found_by_name(tmp_path: Path) -> None:
    layout = cityscapes(tmp_path)
    write_labels(layout.labels, numbers(34))
    plain = layout.open().sample(0)[1]
    turned = Cityscapes(tmp_path, "val", CLASS_NAMES[::-1]).sample(0)[1]
    counted = plain != 255
    assert np.array_equal(turned[counted], 18 - plain[counted])
    assert (turned[~counted] == 255).all()
    other = Cityscapes(tmp_path, "val", [f"LABEL_{i}" for i in range(19)]).sample(0)[1]
    assert np.array_equal(other, plain)


def test_cities_and_images_come_in_order_of_name(tmp_path: Path) -> None:
    layout = cityscapes(tmp_path)
    data = layout.open()
    assert [data.files(i)[0].name.split("_")[0] for i in range(2)] == ["lindau", "munster"]


def test_a_city_without_images_or_labels_is_named(tmp_path: Path) -> None:
    layout = cityscapes(tmp_path)
    (tmp_path / "gtFine" / "val" / "ulm").mkdir()
    with pytest.raises(DatasetError, match=r"gtFine/val/ulm is of a city"):
        len(layout.open())
    write_image(tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_000000_000019_leftImg8bit.png")
    (tmp_path / "gtFine" / "val" / "ulm").rmdir()
    with pytest.raises(DatasetError, match=r"no folder .*gtFine/val/ulm"):
        len(layout.open())


def test_ade20ks_labels_begin_at_one(tmp_path: Path) -> None:
    layout = ade20k(tmp_path)
    write_labels(layout.labels, numbers(151))
    labels = layout.open().sample(0)[1]
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, np.where(numbers(151) == 0, 255, numbers(151) - 1))


@pytest.mark.parametrize(("short", "long"), [("train", "training"), ("val", "validation")])
def test_splits_of_ade20k_have_two_names(tmp_path: Path, short: str, long: str) -> None:
    layout = ade20k(tmp_path)
    for kind in ("images", "annotations"):
        (tmp_path / kind / "validation").rename(tmp_path / kind / long)
    first, second = (ADE20K(tmp_path, split, layout.class_names) for split in (short, long))
    assert first.pairs == second.pairs
    assert len(first) == 2


@pytest.mark.parametrize(
    ("name", "format"),
    [("cityscapes", "cityscapes"), ("ade20k", "ade20k"), ("segmentation_folder", "folder")],
)
def test_each_layout_is_recognised_as_itself(tmp_path: Path, name: str, format: str) -> None:
    layout: Layout = LAYOUTS[name](tmp_path)
    readers = SegmentationModel.readers
    assert next(n for n, reader in readers.items() if reader.recognises(tmp_path)) == format
    assert readers[format] is layout.reader
    assert not any(reader.recognises(tmp_path / "images") for reader in readers.values())


def test_two_images_of_one_name_are_an_error(tmp_path: Path) -> None:
    layout = LAYOUTS["segmentation_folder"](tmp_path)
    write_image(layout.image.with_suffix(".png"))
    with pytest.raises(DatasetError, match=r"a\.jpg and a\.png would share one annotation"):
        len(layout.open())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_label_images_of_few_bits_hold_the_same_numbers(tmp_path: Path, bits: int) -> None:
    """Pillow spreads grey of 2 and 4 bits over 0 to 255: class 3 of 2 bits would be ignored."""
    values = np.arange(30).reshape(5, 6) % min(2**bits, 20)
    path = tmp_path / "labels.png"
    path.write_bytes(grey_png(values, bits))
    np.testing.assert_array_equal(read_labels(path), values)
