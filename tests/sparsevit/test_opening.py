"""Files whose names lead elsewhere by the time they are opened: really exchanged, for real links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sparsevit.data.image_folder import ImageFolder
from sparsevit.data.listing import list_folder
from sparsevit.errors import CheckpointMismatch, DatasetError
from sparsevit.opening import confine, facts_in_place, open_file, path_of
from sparsevit.swin.checkpoints.folder import read_checkpoint
from sparsevit.swin.checkpoints.reading import read_tensors
from sparsevit.tasks.files import sha256_file
from tests.sparsevit.data.layouts import write_image
from worker.files import confine_to


@pytest.fixture(autouse=True)
def unconfined_afterwards() -> Iterator[None]:
    yield
    confine({})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of two classes, to which this process is confined."""
    root = tmp_path / "set"
    for number, name in enumerate(("cat", "dog")):
        folder = root / "val" / name
        folder.mkdir(parents=True)
        write_image(folder / "a.jpg", number)
    confine({str(root): [str(root)]})
    return root


def exchange(path: Path, elsewhere: Path) -> None:
    """Move what is at a path elsewhere and leave a link; its size and time stay what they were."""
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("what", ["", "val", "val/dog", "val/dog/a.jpg"])
def test_an_image_is_not_read_through_a_link_that_came_after_the_listing(
    root: Path, tmp_path: Path, what: str
) -> None:
    images = ImageFolder(root, "val", ["cat", "dog"])
    assert [images.sample(index)[1] for index in range(len(images))] == [0, 1]
    exchange(root / what, tmp_path / "elsewhere")
    for read in (lambda: images.sample(1), images.check):
        with pytest.raises(DatasetError, match="leads elsewhere now"):
            read()


def test_a_folder_is_not_listed_through_a_link(root: Path, tmp_path: Path) -> None:
    assert list_folder(str(root / "val"), str(root), ()) == ([], ["cat", "dog"])
    exchange(root, tmp_path / "elsewhere")
    # The real path is looked up anew, so the listing alone would take all for inside.
    with pytest.raises(DatasetError, match="leads elsewhere now"):
        list_folder(str(root / "val"), os.path.realpath(root), ())
    with pytest.raises(DatasetError, match="leads elsewhere now"):
        facts_in_place(root, DatasetError)


def test_links_inside_a_data_set_are_followed(root: Path) -> None:
    (root / "val" / "dog" / "b.jpg").symlink_to("../cat/a.jpg")
    images = ImageFolder(root, "val", ["cat", "dog"])
    assert np.array_equal(images.sample(2)[0], images.sample(0)[0])


def test_a_pipe_in_a_files_stead_does_not_hold_the_process(root: Path) -> None:
    path = root / "val" / "cat" / "a.jpg"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DatasetError, match="leads elsewhere now"):
        open_file(path)


def test_a_refused_file_leaves_no_descriptor_open(root: Path, tmp_path: Path) -> None:
    path = root / "val" / "cat" / "a.jpg"
    exchange(path, tmp_path / "elsewhere")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(DatasetError):
        open_file(path)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_checkpoint_is_not_read_through_a_link(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    tensors = {"x": torch.arange(3.0)}
    save_file(tensors, str(path)) if path.suffix == ".safetensors" else torch.save(tensors, path)
    confine({str(path): [str(path)]})
    assert torch.equal(read_tensors(path)[0]["x"], tensors["x"])
    exchange(path, tmp_path / "elsewhere")
    for read in (read_tensors, sha256_file):
        with pytest.raises(CheckpointMismatch, match="leads elsewhere now"):
            read(path)


def cached(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of Hugging Face's cache and its blobs, "one" and "two"; its weights lead to "one"."""
    folder, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for name in ("one", "two"):
        save_file({"x": torch.zeros(1)}, str(blobs / name))
    (folder / "model.safetensors").symlink_to(blobs / "one")
    return folder, blobs


def test_links_of_a_model_folder_lead_where_they_led_and_nowhere_else(tmp_path: Path) -> None:
    folder, blobs = cached(tmp_path)
    weights = folder / "model.safetensors"
    confine({str(folder): [str(folder), str(blobs / "one")]})
    assert list(read_checkpoint(folder)[0]) == ["x"]
    weights.unlink()
    weights.symlink_to(blobs / "two")
    with pytest.raises(CheckpointMismatch, match="leads elsewhere now"):
        read_checkpoint(folder)


def test_records_that_do_not_say_where_links_led_allow_the_cache_alone(tmp_path: Path) -> None:
    """Jobs of an older version."""
    folder, blobs = cached(tmp_path)
    weights = folder / "model.safetensors"
    confine_to({"checkpoint": {"path": str(folder), "files": {weights.name: {"size": 1}}}})
    assert list(read_checkpoint(folder)[0]) == ["x"]
    (blobs / "one").rename(tmp_path / "one")
    weights.unlink()
    weights.symlink_to(tmp_path / "one")
    with pytest.raises(CheckpointMismatch, match="leads elsewhere now"):
        facts_in_place(weights, CheckpointMismatch)


def test_what_was_opened_is_read_wherever_its_name_leads_by_then(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("checked")
    other.write_text("another")
    confine({str(path): [str(path)]})
    with open_file(path) as file:
        path.unlink()
        path.symlink_to(other)
        assert (path_of(file).read_text(), file.read()) == ("checked", b"checked")


def test_nothing_else_is_confined(root: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("mine")
    (tmp_path / "link").symlink_to("own")
    with open_file(tmp_path / "link") as file:
        assert file.read() == b"mine"
        assert path_of(file) == tmp_path / "link"
