"""Model folders: shards are found, and nothing that a folder says is believed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsevit.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointTooLarge,
    CheckpointUnsafe,
)
from sparsevit.swin.checkpoints import folder as folders
from sparsevit.swin.checkpoints.load import load_backbone
from tests.sparsevit.checkpoints.damage import Canary, small_state
from tests.sparsevit.checkpoints.networks import (
    assert_equal_features,
    hugging_features,
    pictures,
    swin_backbone,
)

INDEX = "model.safetensors.index.json"


def shards(folder: Path, suffix: str = ".safetensors") -> dict[str, dict[str, Tensor]]:
    """A small Swin in two shards and their index, on disk; the tensors of each shard."""
    state = small_state()
    half = len(state) // 2
    parts = {f"model-1{suffix}": {}, f"model-2{suffix}": {}}
    for place, (key, value) in enumerate(state.items()):
        parts[f"model-{1 + (place >= half)}{suffix}"][key] = value
    for name, part in parts.items():
        save_file(part, folder / name) if suffix == ".safetensors" else torch.save(
            part, folder / name
        )
    index = INDEX if suffix == ".safetensors" else "pytorch_model.bin.index.json"
    write_index(folder / index, {key: name for name, part in parts.items() for key in part})
    return parts


def write_index(path: Path, weight_map: object) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def edit(path: Path, key: str, name: str) -> None:
    write_index(path, json.loads(path.read_text())["weight_map"] | {key: name})


def test_shards_that_transformers_writes(tmp_path: Path) -> None:
    backbone = swin_backbone()
    backbone.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    images = pictures((56, 112))
    assert_equal_features(load_backbone(tmp_path), images, hugging_features(backbone, images))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_of_either_format(tmp_path: Path, suffix: str) -> None:
    shards(tmp_path, suffix)
    expected = small_state().keys()
    assert load_backbone(tmp_path).state_dict().keys() == expected


def test_a_whole_pickle_in_a_folder(tmp_path: Path) -> None:
    torch.save(small_state(), tmp_path / "pytorch_model.bin")
    assert load_backbone(tmp_path).config.embed_dim == 4


def test_a_shard_holds_what_the_index_names_and_no_more(tmp_path: Path) -> None:
    shards(tmp_path)
    extra = load_file(tmp_path / "model-1.safetensors") | {"layers.0.blocks.0.gamma": torch.ones(4)}
    save_file(extra, tmp_path / "model-1.safetensors")
    assert load_backbone(tmp_path).load_report.loaded == len(small_state())


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none of model\.safetensors, pytorch_model\.bin"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "inner/model.safetensors",
        "..\\outside.safetensors",
        "model\0.safetensors",
        "..",
        "",
        "model.txt",
        "x" * 5000 + ".safetensors",
    ],
)
def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    for place in (tmp_path / "outside.safetensors", folder / "inner" / "model.safetensors"):
        save_file(small_state(), place)
    shards(folder)
    edit(folder / INDEX, "norm0.bias", name)
    with pytest.raises(CheckpointError) as caught:
        load_backbone(folder)
    assert len(name) > 1000 or caught.value.code == "CHECKPOINT_UNSAFE"


@pytest.mark.parametrize("link", ["model-1.safetensors", "config.json", INDEX])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, link: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shards(folder)
    (folder / "config.json").write_text("{}")
    (folder / link).rename(tmp_path / link)
    (folder / link).symlink_to(tmp_path / link)
    with pytest.raises(CheckpointUnsafe, match=r"leads out of its folder.*cp -rL"):
        load_backbone(folder)


def test_links_of_hugging_faces_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file(small_state(), blobs / "0f3a")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0f3a")
    assert load_backbone(snapshot).config.embed_dim == 4
    (blobs / "0f3a").rename(tmp_path / "elsewhere")
    (blobs / "0f3a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointUnsafe):
        load_backbone(snapshot)


def test_a_hostile_shard_is_refused_unopened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    shards(tmp_path, ".bin")
    (tmp_path / "model-2.bin").write_bytes(pickle.dumps({"w": Canary(canary)}))
    with pytest.raises(CheckpointUnsafe):
        load_backbone(tmp_path)
    assert not canary.exists()


def test_a_missing_shard_or_tensor_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    edit(tmp_path / INDEX, "norm9.bias", "model-1.safetensors")
    with pytest.raises(CheckpointCorrupt, match=r"lack norm9\.bias"):
        load_backbone(tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointCorrupt, match=r"model-1\.safetensors, which is missing"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "[" * 100_000, '{"weight_map": []}', '{"weight_map": {"a": 5}}']
)
@pytest.mark.parametrize("name", [INDEX, "config.json"])
def test_json_that_describes_nothing_is_named(tmp_path: Path, name: str, text: str) -> None:
    if name == "config.json" and "weight_map" in text:
        text = "null"
    shards(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointCorrupt):
        load_backbone(tmp_path)


def test_bounds_hold_for_all_shards_together(tmp_path: Path, monkeypatch) -> None:
    shards(tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    monkeypatch.setattr(folders, "MAX_BYTES", sum(sizes) - 1)
    with pytest.raises(CheckpointTooLarge, match="bytes"):
        load_backbone(tmp_path)
    monkeypatch.setattr(folders, "MAX_BYTES", sum(sizes))
    load_backbone(tmp_path)
    monkeypatch.setattr(folders, "MAX_TENSORS", len(small_state()) - 1)
    with pytest.raises(CheckpointTooLarge, match="tensors"):
        load_backbone(tmp_path)


def test_shards_may_not_grow_beyond_all_bounds_together(tmp_path: Path, monkeypatch) -> None:
    """Each within its own bound: views of one storage claim more than the files hold."""
    for key in ("a", "b"):
        torch.save({key: torch.zeros(4096).expand(8, 4096)}, tmp_path / f"{key}.bin")
    write_index(tmp_path / "pytorch_model.bin.index.json", {"a": "a.bin", "b": "b.bin"})
    monkeypatch.setattr(folders, "MAX_BYTES", 2 * 8 * 4096 * 4 - 1)
    with pytest.raises(CheckpointTooLarge, match="262144 bytes"):
        load_backbone(tmp_path)


def test_an_endless_config_is_not_read(tmp_path: Path, monkeypatch) -> None:
    shards(tmp_path)
    monkeypatch.setattr(folders, "MAX_HEADER", 10)
    with pytest.raises(CheckpointTooLarge, match="index"):
        load_backbone(tmp_path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "nowhere"])
def test_a_path_of_nothing_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError):
        load_backbone(tmp_path / name)
