"""What is wrong with a data set is found before it is used, and the file is named: every layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevit.errors import DatasetError
from tests.sparsevit.data.layouts import LAYOUTS, SIZE, Layout, fits, huge_png, write_labels


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    return LAYOUTS[request.param](tmp_path / "set")


@pytest.fixture(params=sorted(LAYOUTS.keys() - {"image_folder", "coco"}))
def masks(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    return LAYOUTS[request.param](tmp_path / "set")


def test_a_sound_data_set_passes(layout: Layout) -> None:
    seen = []
    layout.open().check(lambda done, total: seen.append((done, total)))
    assert seen == [(2, 2)]
    for index in range(2):
        image, _ = layout.open().sample(index)
        assert image.shape == (*SIZE, 3)
    assert layout.open().files(0)[0] == layout.image


def absent(layout: Layout) -> None:
    layout.image.unlink()
    layout.image.symlink_to("gone.jpg")


def pipe(layout: Layout) -> None:
    layout.image.unlink()
    os.mkfifo(layout.image)


def link_out(layout: Layout) -> None:
    secret = layout.root.parent / "secret.jpg"
    layout.image.rename(secret)
    layout.image.symlink_to(secret)


def link_of_a_folder_out(layout: Layout) -> None:
    outside = layout.root.parent / "outside"
    layout.image.parent.rename(outside)
    layout.image.parent.symlink_to(outside)


def absolute_link_out(layout: Layout) -> None:
    layout.image.unlink()
    layout.image.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (absent, "is no file"),
        (pipe, "is no file"),
        (link_out, "is a link out of the data set"),
        (absolute_link_out, "is a link out of the data set"),
    ],
)
def test_listing_names_what_is_no_file_of_the_set(layout: Layout, spoil, says: str) -> None:
    spoil(layout)
    with pytest.raises(DatasetError, match=f"{layout.image.name} {says}"):
        len(layout.open())


def test_a_folder_that_leads_out_is_found_when_listing(layout: Layout) -> None:
    link_of_a_folder_out(layout)
    with pytest.raises(DatasetError, match=f"{layout.image.parent.name} is a link out"):
        len(layout.open())


def test_links_inside_the_set_are_fine(layout: Layout) -> None:
    kept = layout.root / "kept.jpg"
    layout.image.rename(kept)
    layout.image.symlink_to(os.path.relpath(kept, layout.image.parent))
    layout.open().check()
    assert layout.open().sample(0)[0].shape == (*SIZE, 3)


def test_a_set_that_is_itself_a_link_is_fine(layout: Layout) -> None:
    link = layout.root.parent / "link"
    link.symlink_to(layout.root)
    assert len(layout.reader(link, "val", layout.class_names)) == 2


def huge(layout: Layout) -> None:
    layout.image.write_bytes(huge_png())


def foreign(layout: Layout) -> None:
    layout.image.write_bytes(fits())


def sixteen_bit(layout: Layout) -> None:
    pixels = np.zeros(SIZE, np.uint16)
    Image.fromarray(pixels).save(layout.image, format="PNG")


def empty(layout: Layout) -> None:
    layout.image.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (huge, "60000|3600000000 pixels"),
        (foreign, "cannot be read as JPEG or PNG"),
        (sixteen_bit, "8-bit colours"),
        (empty, "cannot be read as JPEG or PNG"),
    ],
)
def test_headers_alone_show_what_cannot_be_read(layout: Layout, spoil, says: str) -> None:
    spoil(layout)
    assert len(layout.open()) == 2
    for find in (layout.open().check, lambda: layout.open().sample(0)):
        with pytest.raises(DatasetError, match=says) as error:
            find()
        assert str(layout.image) in str(error.value)
    layout.open().check(indices=[1])  # the other image is sound


def test_a_truncated_image_is_named_when_it_is_read(layout: Layout) -> None:
    content = layout.image.read_bytes()
    layout.image.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(DatasetError, match=rf"{layout.image.name} cannot be read"):
        layout.open().sample(0)


def mask_of_another_size(layout: Layout) -> Path:
    return write_labels(layout.labels, np.ones((SIZE[0], SIZE[1] + 1)))


def colours_as_mask(layout: Layout) -> Path:
    Image.new("RGB", SIZE[::-1]).save(layout.labels)
    return layout.labels


def image_of_another_size(layout: Layout) -> Path:
    Image.new("RGB", (SIZE[1], SIZE[0] - 1)).save(layout.image)
    return layout.image


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (mask_of_another_size, r"20 x 31 .* 20 x 30: they must match"),
        (image_of_another_size, r"20 x 30 .* 19 x 30: they must match"),
        (colours_as_mask, "one 8-bit class index per pixel"),
    ],
)
def test_headers_alone_show_a_mask_that_does_not_fit(masks: Layout, spoil, says: str) -> None:
    path = spoil(masks)
    for find in (masks.open().check, lambda: masks.open().sample(0)):
        with pytest.raises(DatasetError, match=says) as error:
            find()
        assert str(path) in str(error.value)


def test_an_image_without_annotation_is_named(masks: Layout) -> None:
    masks.labels.unlink()
    with pytest.raises(DatasetError, match=rf"{masks.image.name} has no annotation"):
        len(masks.open())


def test_an_annotation_of_an_absent_image_is_named(masks: Layout) -> None:
    masks.image.unlink()
    with pytest.raises(DatasetError, match=rf"{masks.labels.name} is of an image that is not"):
        len(masks.open())


def test_an_empty_split_is_named(layout: Layout) -> None:
    for file in [*layout.root.rglob("*.*")]:
        if "val" in str(file.parent) and file.is_file():
            file.unlink()
    with pytest.raises(DatasetError, match=r"no image|no folder|has no file"):
        len(layout.open())


def test_a_split_that_is_not_there_says_what_is_expected(layout: Layout) -> None:
    with pytest.raises(DatasetError, match=r"there is no (folder|annotation file) .*: expected .*"):
        len(layout.reader(layout.root, "nope", layout.class_names))


@pytest.mark.parametrize("split", ["", "..", "../images/val", "/etc", "\0"])
def test_a_split_is_one_plain_name(layout: Layout, split: str) -> None:
    with pytest.raises(DatasetError, match="no name of a folder"):
        layout.reader(layout.root, split, layout.class_names)


@pytest.mark.parametrize(
    ("name", "label", "says"),
    [
        ("segmentation_folder", 4, "class 4; the model knows 0 to 3"),
        ("ade20k", 151, "label 151; ADE20K has 0"),
        ("cityscapes", 34, "label id 34; Cityscapes has 0 to 33"),
    ],
)
def test_a_label_out_of_range_is_named(tmp_path: Path, name: str, label: int, says: str) -> None:
    layout = LAYOUTS[name](tmp_path)
    labels = np.ones(SIZE)
    labels[3, 4] = label
    write_labels(layout.labels, labels)
    with pytest.raises(DatasetError, match=says) as error:
        layout.open().sample(0)
    assert str(layout.labels) in str(error.value)


@pytest.mark.parametrize("name", ["ade20k", "cityscapes"])
def test_a_model_of_other_classes_is_refused(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name](tmp_path)
    with pytest.raises(DatasetError, match="the model tells 4 apart"):
        layout.reader(layout.root, "val", ("a", "b", "c", "d"))
