"""The made data sets: read by stock loaders, with exact labels, the same for the same seed."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevit.data.ade20k import ADE20K, CLASS_NAMES
from sparsevit.data.cityscapes import CLASS_NAMES as CITY_NAMES
from sparsevit.data.cityscapes import LABEL_IDS, Cityscapes
from sparsevit.data.coco import CLASS_NAMES as COCO_NAMES
from sparsevit.data.coco import Coco
from sparsevit.data.copies import copies, image_files
from sparsevit.data.image_folder import ImageFolder
from sparsevit.data.make import ade20k, cityscapes, coco, imagenet
from sparsevit.data.make.outlines import polygons
from sparsevit.data.make.scene import Scene, ellipse
from sparsevit.errors import ConfigError
from sparsevit.tasks.semantic import SegmentationModel

COUNTS = {"train": 12, "val": 6}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sets, small."""
    out = tmp_path_factory.mktemp("made")
    for path in imagenet.make(out / "imagenet", COUNTS, None, seed=0, classes=5):
        assert path.is_file()
    assert len([*cityscapes.make(out / "cityscapes", COUNTS, (128, 256), seed=0)]) == 18
    assert len([*ade20k.make(out / "ade20k", COUNTS, (96, 128), seed=0)]) == 18
    assert len([*coco.make(out / "coco", COUNTS, (96, 128), seed=0)]) == 18
    return out


def ade_root(made: Path) -> Path:
    return made / "ade20k" / "ADEChallengeData2016"


@pytest.mark.parametrize(("split", "count"), COUNTS.items())
def test_torchvision_reads_imagenet_as_we_do(made: Path, split: str, count: int) -> None:
    from torchvision.datasets import ImageFolder as Stock

    stock = Stock(made / "imagenet" / split)
    ours = ImageFolder(made / "imagenet", split, [f"class {i}" for i in range(5)])
    assert len(stock) == len(ours) == count
    assert all(re.fullmatch(r"n\d{8}", name) for name in stock.classes)
    for index in range(count):
        image, target = ours.sample(index)
        assert target == stock[index][1]
        assert np.array_equal(image, np.asarray(stock[index][0]))
        assert ours.files(index)[0].suffix == ".JPEG"


def test_images_of_imagenet_differ_in_size_and_a_few_are_grey(tmp_path: Path) -> None:
    pictures = []
    for path in imagenet.make(tmp_path, {"train": 60}, None, seed=1, classes=2):
        with Image.open(path) as image:
            pictures.append((image.size, image.mode))
    assert len({size for size, _ in pictures}) > 50
    assert 0 < sum(mode == "L" for _, mode in pictures) < 20


def test_classes_of_imagenet_can_be_learned(tmp_path: Path) -> None:
    """Even from a histogram of colours alone."""
    from sklearn.linear_model import LogisticRegression

    list(imagenet.make(tmp_path, {"train": 200, "val": 100}, (96, 96), seed=0, classes=10))
    tables = []
    for split in ("train", "val"):
        data = ImageFolder(tmp_path, split, [str(i) for i in range(10)])
        samples = [data.sample(i) for i in range(len(data))]
        cells = [(image // 43).astype(int) @ (36, 6, 1) for image, _ in samples]
        histograms = [np.sqrt(np.bincount(c.ravel(), minlength=216) / c.size) for c in cells]
        tables.append((np.array(histograms), [target for _, target in samples]))
    model = LogisticRegression(C=100, max_iter=500).fit(*tables[0])
    assert model.score(*tables[1]) > 0.6  # chance: 0.1


@pytest.mark.parametrize(("split", "count"), COUNTS.items())
def test_torchvision_reads_cityscapes_as_we_do(made: Path, split: str, count: int) -> None:
    from torchvision.datasets import Cityscapes as Stock

    stock = Stock(made / "cityscapes", split, target_type=["semantic", "instance"])
    ours = Cityscapes(made / "cityscapes", split, CITY_NAMES)
    ours.check()
    assert len(stock) == len(ours) == count
    places = {path: index for index, path in enumerate(map(Path, stock.images))}
    table = np.array([train_id for _, train_id in LABEL_IDS.values()])
    for index in range(count):
        image, labels = ours.sample(index)
        picture, (semantic, instances) = stock[places[ours.files(index)[0]]]
        ids, numbers = np.asarray(semantic), np.asarray(instances).astype(int)
        assert np.array_equal(image, np.asarray(picture))
        assert np.array_equal(labels, table[ids])
        assert np.array_equal(np.where(numbers >= 1000, numbers // 1000, numbers), ids)
        assert set(np.unique(ids[numbers >= 1000])) <= {24, 25, 26, 27, 28, 31, 32, 33}
        assert not ((ids >= 24) & (numbers < 1000)).any()


def test_names_of_cityscapes_are_of_the_official_form(made: Path) -> None:
    files = [*(made / "cityscapes").rglob("*.png")]
    form = r"([a-z]+)_\d{6}_\d{6}_(leftImg8bit|gtFine_labelIds|gtFine_instanceIds)\.png"
    assert len(files) == 3 * 18
    for file in files:
        match = re.fullmatch(form, file.name)
        assert match is not None
        assert file.parent.name == match[1]


def test_every_class_of_cityscapes_is_drawn(tmp_path: Path) -> None:
    list(cityscapes.make(tmp_path, {"train": 16}, (128, 256), seed=0))
    data = Cityscapes(tmp_path, "train", CITY_NAMES)
    seen = {label for i in range(len(data)) for label in np.unique(data.sample(i)[1]).tolist()}
    assert seen == {*range(19), 255}


def test_ade20k_is_read_and_its_table_counts_it(made: Path) -> None:
    root = ade_root(made)
    rows = [row.split("\t") for row in (root / "objectInfo150.txt").read_text().splitlines()]
    assert [row[-1] for row in rows[1:]] == list(CLASS_NAMES)
    assert len(rows) == 151
    for column, split in ((2, "train"), (3, "val")):
        data = ADE20K(root, split, CLASS_NAMES)
        data.check()
        assert len(data) == COUNTS[split]
        found = [set(np.unique(data.sample(i)[1]).tolist()) for i in range(len(data))]
        assert any(255 in labels for labels in found)
        for label in range(150):
            assert int(rows[label + 1][column]) == sum(label in labels for labels in found)
    assert sum(float(row[1]) for row in rows[1:]) == pytest.approx(1, abs=0.01)
    scenes = (root / "sceneCategories.txt").read_text().splitlines()
    assert len(scenes) == 18
    assert scenes[0] == "ADE_train_00000001 living_room"


@pytest.mark.parametrize(("split", "count"), COUNTS.items())
def test_pycocotools_reads_coco_as_we_do(made: Path, split: str, count: int) -> None:
    from pycocotools.coco import COCO

    stock = COCO(str(made / "coco" / "annotations" / f"instances_{split}2017.json"))
    ours = Coco(made / "coco", split, COCO_NAMES)
    ours.check()
    assert sorted(stock.imgs) == [image.id for _, image in ours.images]
    assert len(ours) == count
    assert sorted(stock.getCatIds()) == [*ours.class_of]
    for index in range(count):
        _, target = ours.sample(index)
        expected = stock.loadAnns(stock.getAnnIds(target.image_id))
        assert len(target) == len(expected)
        for place, (annotation, bitmap) in enumerate(zip(expected, target.bitmaps(), strict=True)):
            assert np.array_equal(stock.annToMask(annotation), bitmap)
            assert ours.class_of[annotation["category_id"]] == target.classes[place]
            assert annotation["bbox"] == target.boxes[place].tolist()
            assert annotation["area"] == target.areas[place] == bitmap.sum()
            left, top, width, height = target.boxes[place].astype(int)
            inside = bitmap[top : top + height, left : left + width]
            assert inside.sum() == bitmap.sum()
            edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
            assert all(edge.any() for edge in edges)


def test_objects_of_coco_do_not_overlap_and_some_are_crowds(tmp_path: Path) -> None:
    list(coco.make(tmp_path, {"train": 12}, (120, 160), seed=0))
    data = Coco(tmp_path, "train", COCO_NAMES)
    targets = [data.sample(i)[1] for i in range(len(data))]
    assert all(target.bitmaps().sum(0).max() == 1 for target in targets)
    assert 0 < sum(int(target.crowd.sum()) for target in targets) < len(targets)
    assert len({name for t in targets for name in t.classes.tolist()}) > 8


def test_outlines_are_exact_and_holes_have_none() -> None:
    from pycocotools import mask as tools
    from scipy.ndimage import binary_fill_holes, gaussian_filter

    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = binary_fill_holes(gaussian_filter(rng.normal(size=(40, 50)), 2) > 0.1)
        filled = tools.decode(tools.merge(tools.frPyObjects(polygons(mask), *mask.shape)))
        assert np.array_equal(filled, mask)
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    assert polygons(ring) is None


def test_the_made_sets_are_recognised(made: Path) -> None:
    readers = SegmentationModel.readers
    for name, root in (("cityscapes", made / "cityscapes"), ("ade20k", ade_root(made))):
        assert next(n for n, reader in readers.items() if reader.recognises(root)) == name
    assert ImageFolder.recognises(made / "imagenet")
    assert Coco.recognises(made / "coco")


def test_training_and_validation_share_no_image(made: Path) -> None:
    sets = (
        (ImageFolder, made / "imagenet", [str(i) for i in range(5)]),
        (Cityscapes, made / "cityscapes", CITY_NAMES),
        (ADE20K, ade_root(made), CLASS_NAMES),
        (Coco, made / "coco", COCO_NAMES),
    )
    for reader, root, names in sets:
        train, val = (reader(root, split, names) for split in ("train", "val"))
        assert [*copies(image_files(val), train)] == []
        hashes = [
            hashlib.sha256(data.sample(i)[0].tobytes()).digest()
            for data in (train, val)
            for i in range(len(data))
        ]
        assert len({*hashes}) == 18


def digests(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        counts = {"train": 2, "val": 2}
        list(imagenet.make(tmp_path / name / "imagenet", counts, None, seed, classes=2))
        list(cityscapes.make(tmp_path / name / "cityscapes", counts, (64, 128), seed))
        list(ade20k.make(tmp_path / name / "ade20k", counts, (64, 96), seed))
        list(coco.make(tmp_path / name / "coco", counts, (64, 96), seed))
    one, two, three = (digests(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one.keys() == three.keys()
    images = [name for name in one if re.search(r"JPEG|jpg|leftImg8bit\.png", name)]
    assert len(images) == 16
    assert not any(one[name] == three[name] for name in images)


def test_labels_are_exactly_what_was_painted() -> None:
    scene = Scene(60, 80, "train", np.random.default_rng(0))
    before = np.asarray(scene.image).copy()
    outlines = {3: ellipse(20, 30, 15.3, 10.7), 7: [(50.2, 5), (95, 20), (60, 70.5)]}
    for label, outline in outlines.items():
        scene.fill(outline, label, "gravel", (250, 250, 250), scene.new_instance(label))
    painted = (np.asarray(scene.image) != before).any(axis=2)
    assert np.array_equal(painted, np.asarray(scene.labels) > 0)
    assert set(np.unique(scene.instance_numbers())) == {0, 3000, 7000}
    assert np.array_equal(scene.instance_numbers() // 1000, np.asarray(scene.labels))


def test_more_classes_than_images_or_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an image of each of the 7"):
        next(imagenet.make(tmp_path, COUNTS, None, seed=0, classes=7))
    with pytest.raises(ConfigError, match="1 to 1000"):
        next(imagenet.make(tmp_path, {"train": 2000}, None, seed=0, classes=1001))
    assert [*tmp_path.iterdir()] == []


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparsevit.data.make", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "ade"
    options = ("--train", "2", "--val", "1", "--size", "64x96")
    done = run("ade20k", out, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote 3 images to {out / 'ADEChallengeData2016'}\n"
    assert "100%" in done.stderr
    assert ADE20K(out / "ADEChallengeData2016", "val", CLASS_NAMES).sample(0)[0].shape[:2] == (
        64,
        96,
    )
    again = run("ade20k", out, *options)
    assert (again.returncode, again.stdout) == (1, "")
    assert "is not an empty folder" in again.stderr


@pytest.mark.parametrize("size", ["64", "8x8", "axb", "64x96x3"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    done = run("cityscapes", tmp_path / "out", "--size", size)
    assert done.returncode == 1
    assert "it is HxW" in done.stderr


def test_help_shows_examples() -> None:
    for name in ("imagenet", "cityscapes", "ade20k", "coco"):
        done = run(name, "--help")
        assert done.returncode == 0
        assert f"python -m sparsevit.data.make {name}" in " ".join(done.stdout.split())
