from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevit.data.image_folder import ImageFolder
from sparsevit.errors import DatasetError
from tests.sparsevit.data.layouts import write_image

ANIMALS = ("cat", "dog", "emu")


def fill(root: Path, *paths: str) -> Path:
    for seed, path in enumerate(paths):
        write_image(root / "train" / path, seed)
    return root


def indices(root: Path, names: tuple[str, ...]) -> dict[str, int]:
    data = ImageFolder(root, "train", names)
    return {data.files(i)[0].parent.name: data.sample(i)[1] for i in range(len(data))}


def test_order_and_indices_are_torchvisions(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder as Stock

    fill(
        tmp_path,
        *("n2/b.JPEG", "n2/a.jpg", "n2/B.png", "n10/x.jpeg", "n1/z.JPG", "n1/deep/c.jpg"),
        *("n1/deep/er/d.png", "n1/deep-er/e.png", "n1/deep/er.jpg/f.png", "n1/A/g.png"),
    )
    (tmp_path / "train" / "n1" / "list.txt").write_text("no image")
    (tmp_path / "train" / "n1" / "nothing").mkdir()
    stock = Stock(tmp_path / "train")
    ours = ImageFolder(tmp_path, "train", ("one", "two", "three"))
    assert len(ours) == len(stock) == 10
    for index, (path, target) in enumerate(stock.samples):
        assert ours.files(index) == (Path(path),)
        image, label = ours.sample(index)
        assert (label, type(label)) == (target, int)
        assert np.array_equal(image, np.asarray(stock[index][0]))


def test_folders_named_like_classes_stand_for_them(tmp_path: Path) -> None:
    fill(tmp_path, "emu/a.jpg", "cat/a.jpg")
    assert indices(tmp_path, ("dog", "emu", "cat")) == {"emu": 1, "cat": 2}


def test_other_folders_stand_in_sorted_order(tmp_path: Path) -> None:
    fill(tmp_path, "n03/a.jpg", "n01/a.jpg", "n02/a.jpg")
    assert indices(tmp_path, ANIMALS) == {"n01": 0, "n02": 1, "n03": 2}


@pytest.mark.parametrize(
    ("folders", "names", "says"),
    [
        (("cat", "wolf"), ANIMALS, "wolf is none of the model's 3 classes, though"),
        (("cat", "dog", "wolf"), ANIMALS, "wolf is none of the model's 3 classes, though"),
        (("n01", "n02"), ANIMALS, "n01 is none .* 2 folders cannot stand in order for its 3"),
        (("crane", "cat"), ("crane", "crane", "cat"), "crane is none"),  # which of the two?
    ],
)
def test_a_class_that_the_head_does_not_know_is_named(
    tmp_path: Path, folders: tuple[str, ...], names: tuple[str, ...], says: str
) -> None:
    fill(tmp_path, *(f"{folder}/a.jpg" for folder in folders))
    with pytest.raises(DatasetError, match=says):
        len(ImageFolder(tmp_path, "train", names))


def test_a_class_folder_without_images_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.jpg")
    (tmp_path / "train" / "dog" / "inside").mkdir(parents=True)
    (tmp_path / "train" / "dog" / "readme.txt").write_text("nothing yet")
    with pytest.raises(DatasetError, match=r"class folder .*dog holds no image"):
        len(ImageFolder(tmp_path, "train", ANIMALS))


def test_an_image_that_only_torchvision_reads_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "cat" / "b.webp")
    with pytest.raises(DatasetError, match=r"b\.webp: only \.jpg"):
        len(ImageFolder(tmp_path, "train", ANIMALS))


def test_images_beside_the_class_folders_are_no_data_set(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(DatasetError, match="one folder a class"):
        len(ImageFolder(tmp_path, "train", ANIMALS))


def test_a_folder_that_leads_to_itself_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.jpg", "cat/deep/b.jpg")
    (tmp_path / "train" / "cat" / "deep" / "loop").symlink_to("..")
    with pytest.raises(DatasetError, match="loop is a link to a folder that holds it"):
        len(ImageFolder(tmp_path, "train", ANIMALS))


def test_two_folders_that_lead_to_each_other_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "cat/x/a.jpg", "cat/y/b.jpg")
    (tmp_path / "train" / "cat" / "x" / "to").symlink_to("../y")
    (tmp_path / "train" / "cat" / "y" / "fro").symlink_to("../x")
    with pytest.raises(DatasetError, match="is a link to a folder that holds it"):
        len(ImageFolder(tmp_path, "train", ANIMALS))


def test_what_it_recognises(tmp_path: Path) -> None:
    assert not ImageFolder.recognises(tmp_path)
    assert not ImageFolder.recognises(tmp_path / "nothing")
    (tmp_path / "train").mkdir()
    assert not ImageFolder.recognises(tmp_path)
    assert ImageFolder.recognises(fill(tmp_path, "cat/a.jpg"))


def test_an_index_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    data = ImageFolder(fill(tmp_path, "cat/a.jpg"), "train", ANIMALS)
    for index in (-1, 1):
        with pytest.raises(IndexError):
            data.sample(index)
