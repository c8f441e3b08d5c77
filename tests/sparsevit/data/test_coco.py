"""COCO's layout: what pycocotools reads, and every fault named before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_tools

from sparsevit.data.coco import CATEGORIES, CLASS_NAMES, Coco
from sparsevit.data.instances import Instances
from sparsevit.data.rle import decode, encode, parse_counts
from sparsevit.data.sources import dataset_sha256, training_sha256
from sparsevit.errors import DatasetError
from tests.sparsevit.data.layouts import COCO_CATEGORIES, SIZE, Layout, coco

NAMES = tuple(COCO_CATEGORIES.values())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return coco(tmp_path / "set")


def table(layout: Layout) -> Path:
    return layout.root / "annotations" / "instances_val.json"


def change(layout: Layout, edit: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(table(layout).read_text())
    edit(document)
    table(layout).write_text(json.dumps(document))


def test_names_and_ids_are_coco_s() -> None:
    assert len(CLASS_NAMES) == 80
    assert CATEGORIES[1] == "person"
    assert CATEGORIES[13] == "stop sign"
    assert CATEGORIES[44] == "bottle"
    assert CATEGORIES[90] == "toothbrush"


def test_a_target(layout: Layout) -> None:
    image, target = layout.open().sample(0)
    assert image.shape == (*SIZE, 3)
    assert (target.image_id, target.size, len(target)) == (7, SIZE, 3)
    assert target.classes.tolist() == [0, 1, 2]  # of the ids 1, 18 and 90
    assert target.boxes[0].tolist() == [2, 3, 10, 12]
    expected = np.zeros(SIZE, np.uint8)
    expected[3:15, 2:12] = 1
    assert (target.bitmaps() == expected).all()
    assert len(layout.open().sample(1)[1]) == 0  # images without objects count too


def test_categories_stand_for_classes_by_name_or_in_order_of_their_ids(layout: Layout) -> None:
    by_name = Coco(layout.root, "val", ("cat", "toothbrush", "dog", "person"))
    assert by_name.sample(0)[1].classes.tolist() == [3, 2, 1]
    in_order = Coco(layout.root, "val", ("0", "1", "2"))
    assert in_order.sample(0)[1].classes.tolist() == [0, 1, 2]


@pytest.mark.parametrize("names", [("person", "dog", "cat"), ("0", "1"), ("person",)])
def test_a_category_that_the_model_does_not_know(layout: Layout, names: tuple[str, ...]) -> None:
    with pytest.raises(
        DatasetError, match=r"category '.*' \(id \d+\), which is none of the model's"
    ):
        len(Coco(layout.root, "val", names))


def test_official_names_of_splits(tmp_path: Path) -> None:
    layout = coco(tmp_path / "set")
    (layout.root / "val").rename(layout.root / "val2017")
    table(layout).rename(layout.root / "annotations" / "instances_val2017.json")
    for split in ("val", "val2017"):
        assert len(Coco(layout.root, split, NAMES)) == 2


def compressed(document: dict[str, Any]) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[4:9, 5:20] = 1
    for annotation, counts in zip(
        document["annotations"],
        (encode(mask[None])[0].decode(), [0, SIZE[0] * SIZE[1]], [SIZE[0] * SIZE[1]]),
        strict=True,
    ):
        annotation |= {"segmentation": {"size": list(SIZE), "counts": counts}, "iscrowd": 1}


def test_crowds_as_run_lengths(layout: Layout) -> None:
    change(layout, compressed)
    target = layout.open().sample(0)[1]
    assert target.crowd.all()
    assert target.bitmaps().sum((1, 2)).tolist() == [75, SIZE[0] * SIZE[1], 0]


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_are_read_as_pycocotools_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.repeat(rng.random((37, 90)) < 0.4, 1 + 40 * (seed % 2), axis=0).astype(np.uint8)
    counts = parse_counts(encode(mask[None])[0].decode())
    again = mask_tools.frPyObjects({"size": list(mask.shape), "counts": counts}, *mask.shape)
    assert np.array_equal(mask_tools.decode(again), mask)


def set_annotation(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["annotations"][1].update(values)


def runs(counts: Any, size: Any = SIZE) -> Callable[[dict[str, Any]], None]:
    return set_annotation(segmentation={"counts": counts, "size": list(size)})


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "image unknown": (set_annotation(image_id=8), "annotation 2 is of the image 8, which is not in"),
    "category unknown": (set_annotation(category_id=4), "annotation 2 is of the category 4, which"),
    "box outside": (set_annotation(bbox=[25, 3, 10, 5]), "annotation 2 .*its box reaches .*outside"),
    "box above": (set_annotation(bbox=[5, -9, 10, 12]), "annotation 2 .*outside"),
    "box negative": (set_annotation(bbox=[5, 3, -1, 2]), "annotation 2 .*negative"),
    "box of three": (set_annotation(bbox=[5, 3, 1]), "annotation 2 .*not enough values"),
    "box infinite": (set_annotation(bbox=[5, 3, 1e999, 2]), "annotation 2 .*no number of pixels"),
    "polygon outside": (
        set_annotation(segmentation=[[2, 3, 12, 3, 12, 1e9]]), "annotation 2 .*its polygon reaches",
    ),
    "polygon of two corners": (set_annotation(segmentation=[[2, 3, 12, 3]]), "three corners"),
    "no polygon": (set_annotation(segmentation=[]), "annotation 2 .*is empty"),
    "runs too long": (runs([0, 10**9]), "annotation 2 .*do not fill"),
    "runs negative": (runs([700, -100]), "annotation 2 .*do not fill"),
    "runs compressed": (runs("0000"), "annotation 2 .*do not fill"),
    "runs damaged": (runs("\u2190"), "annotation 2 .*no run lengths"),
    "mask of another size": (runs([600], (20, 31)), r"annotation 2 .*\[20, 31\]"),
    "iscrowd": (set_annotation(iscrowd="yes"), "annotation 2 .*iscrowd"),
    "area missing": (lambda d: d["annotations"][1].pop("area"), "annotation 2 .*area"),
    "no images": (lambda d: d.pop("images"), "cannot be read as annotations of COCO: .*images"),
    "empty": (lambda d: d.update(images=[], annotations=[]), "lists no image"),
    "same id": (lambda d: d["images"][1].update(id=7), "have the same id"),
    "file missing": (lambda d: d["images"][1].update(file_name="c.jpg"), "image 30 of .* has no file"),
    "file elsewhere": (
        lambda d: d["images"][1].update(file_name="../../secret.jpg"), "image 30 of .* has no file",
    ),
    "huge image": (lambda d: d["images"][1].update(width=10**9), "image 30 has 20 x 1000000000"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_annotations_is_named_before_any_image_is_opened(
    layout: Layout, fault: str
) -> None:
    edit, says = FAULTS[fault]
    change(layout, edit)
    with pytest.raises(DatasetError, match=says) as error:
        len(layout.open())
    assert table(layout).name in str(error.value)


def test_no_annotation_file(layout: Layout) -> None:
    table(layout).unlink()
    with pytest.raises(DatasetError, match=r"no annotation file .*instances_val\.json"):
        len(layout.open())
    table(layout).write_text("{")
    with pytest.raises(DatasetError, match="cannot be read as annotations"):
        len(layout.open())


def test_an_annotation_at_the_border_is_fine(layout: Layout) -> None:
    change(layout, set_annotation(bbox=[20.4, 3, 10.2, 5]))  # COCO has boxes half a pixel outside
    assert layout.open().sample(0)[1].boxes[1, 2] == 10.2


def test_checking_finds_images_of_another_size_and_cut_off_ones(layout: Layout) -> None:
    whole = layout.image.read_bytes()
    layout.image.write_bytes(whole[:-40])
    with pytest.raises(DatasetError, match=r"a\.jpg cannot be read"):
        layout.open().check()
    layout.image.write_bytes(whole + b"written behind")
    layout.open().check()
    change(layout, lambda d: d["images"][0].update(height=SIZE[0] + 1))
    for find in (layout.open().check, lambda: layout.open().sample(0)):
        with pytest.raises(DatasetError, match=r"20 x 30 .* says 21 x 30"):
            find()


class Task:
    """What opening a data set needs of a task model."""

    task, readers, class_names = "instance_segmentation", {"coco": Coco}, NAMES
    views = 1


def test_hashes_are_of_the_annotations_too(layout: Layout) -> None:
    spec = {"path": str(layout.root), "train_split": "val", "search_split": "val"}
    training = spec | {"search_split": "test"}
    before = dataset_sha256(spec, Task()), training_sha256(training, Task())
    change(layout, set_annotation(area=50.0))
    after = dataset_sha256(spec, Task()), training_sha256(training, Task())
    assert before[0] != after[0]
    assert before[1] != after[1]


def instances(masks: np.ndarray, boxes: list[list[float]]) -> Instances:
    count = len(masks)
    return Instances(
        1, masks.shape[1:], np.arange(count), np.array(boxes, float), masks.sum((1, 2)) * 1.0,
        np.zeros(count, bool), encode(masks),
    )  # fmt: skip


def test_cutting_and_mirroring() -> None:
    masks = np.zeros((2, 20, 30), np.uint8)
    masks[0, 5:15, 10:20] = 1
    masks[1, 0:4, 0:4] = 1
    whole = instances(masks, [[10, 5, 10, 10], [0, 0, 4, 4]])
    cut = whole.cut((15, 5, 25, 15), (20, 20))  # twice as large; the second object is outside
    assert cut.classes.tolist() == [0]
    assert cut.boxes.tolist() == [[0, 0, 10, 20]]
    expected = np.zeros((20, 20), np.uint8)
    expected[:, :10] = 1
    assert np.array_equal(cut.bitmaps()[0], expected)
    mirrored = cut.mirrored()
    assert mirrored.boxes.tolist() == [[10, 0, 10, 20]]
    assert np.array_equal(mirrored.bitmaps()[0], expected[:, ::-1])
    assert np.array_equal(decode(mirrored.mirrored().masks, (20, 20))[0], expected)
