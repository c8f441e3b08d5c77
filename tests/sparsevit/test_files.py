"""Checkpoint files: what was saved loads unchanged; what is no checkpoint of ours says why."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sparsevit
from sparsevit.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointMismatch,
    CheckpointTooLarge,
    CheckpointUnsafe,
)
from sparsevit.swin.checkpoints.microsoft import load_backbone
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.files import load_model, save_model, sha256_file


@pytest.fixture
def saved(tiny_model, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(tiny_model, path)
    return path


def test_a_saved_model_loads_unchanged(tiny_model, saved: Path) -> None:
    tiny_model.adapted = "l2"
    save_model(tiny_model, saved)
    again = load_model(saved)
    images = torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(again(images), tiny_model(images))
    assert again.weights_sha256 == sha256_file(saved) == tiny_model.weights_sha256
    assert again.adapted == "l2"
    assert again.preprocess == tiny_model.preprocess
    assert again.metric == tiny_model.metric


def test_a_saved_file_is_as_readable_as_any_other(saved: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_shipped_supernet_loads_dense() -> None:
    model = sparsevit.load_model("builtin:digits")
    assert model.backbone.sparsity.is_dense
    assert model.adapted == sparsevit.SparsityConfig.dense((1,)).score


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_runs_code_is_refused_unopened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for name in ("a.pth", "b.pt"):
        (tmp_path / name).write_bytes(pickle.dumps({"w": Canary(canary)}))
        with pytest.raises(CheckpointError) as caught:
            load_model(tmp_path / name)
        assert caught.value.code == "CHECKPOINT_UNSAFE"
    torch.save({"w": Canary(canary)}, tmp_path / "c.pth")
    with pytest.raises(CheckpointUnsafe, match="could run code"):
        load_model(tmp_path / "c.pth")
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointUnsafe, match="save_file"):
        load_model(tmp_path / "d.pkl")
    assert not canary.exists()


def header(length: int, body: bytes) -> bytes:
    return struct.pack("<Q", length) + body


MANY = json.dumps({f"tensor{i}": {} for i in range(100_000)}).encode()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", CheckpointCorrupt),
        (b"abc", CheckpointCorrupt),
        (header(2**63, b"{}"), CheckpointCorrupt),
        (header(2, b"[]"), CheckpointCorrupt),
        (header(9, b"{" * 9), CheckpointCorrupt),
        (header(len(MANY), MANY), CheckpointTooLarge),
    ],
)
def test_damaged_safetensors_are_named(tmp_path: Path, content: bytes, error: type) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(error):
        load_model(path)


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    body = json.dumps({"a": entry, "b": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(header(len(body), body) + bytes(16))
    with pytest.raises(CheckpointCorrupt):
        load_model(path)


def test_a_truncated_zip_and_a_bomb_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"w": torch.zeros(1000)}, whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:700])
    with pytest.raises(CheckpointError) as caught:
        load_model(cut)
    assert caught.value.code in ("CHECKPOINT_CORRUPT", "CHECKPOINT_UNSAFE")
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(10_000_000))
    with pytest.raises(CheckpointTooLarge):
        load_model(bomb)


def test_a_network_that_is_no_swin_is_named(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    save_file(other.state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointMismatch, match="no task model"):
        load_model(tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointMismatch, match="no Swin backbone"):
        load_backbone(tmp_path / "resnet.safetensors")


def metadata_of(path: Path) -> dict[str, str]:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length])["__metadata__"]


def test_wrong_shapes_and_nan_weights_are_named(saved: Path) -> None:
    tensors, metadata = load_file(saved), metadata_of(saved)
    key = "backbone.layers.0.blocks.0.attn.qkv.weight"
    save_file(tensors | {key: torch.zeros(3, 3)}, saved, metadata)
    with pytest.raises(CheckpointMismatch, match="the architecture needs"):
        load_model(saved)
    save_file(tensors | {key: torch.full_like(tensors[key], float("nan"))}, saved, metadata)
    with pytest.raises(CheckpointMismatch, match="NaN"):
        load_model(saved)
    save_file({k: v for k, v in tensors.items() if k != key}, saved, metadata)
    with pytest.raises(CheckpointMismatch, match="missing"):
        load_model(saved)


@pytest.mark.parametrize("prefix", ["", "model.", "backbone.", "state_dict.backbone."])
def test_a_bare_backbone_is_inferred_from_its_tensors(tmp_path: Path, prefix: str) -> None:
    config = SwinConfig(embed_dim=8, depths=(2, 4), num_heads=(1, 2), window_size=5, mlp_ratio=2.0)
    torch.manual_seed(0)
    backbone = SparseSwin(config).eval()
    state = {prefix + k: v for k, v in backbone.state_dict().items()}
    state[f"{prefix}layers.0.blocks.1.attn_mask"] = torch.zeros(3)
    state[f"{prefix}head.weight"] = torch.zeros(3, 3)
    nested: dict = {}
    for key, value in state.items():
        place = nested
        if prefix:
            for part in prefix.split(".")[:1]:
                place = place.setdefault(part, {})
            key = key.split(".", 1)[1]
        place[key] = value
    torch.save(nested, tmp_path / "swin.pth")
    again = load_backbone(tmp_path / "swin.pth")
    assert again.config == config
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(again(images), backbone(images), strict=True):
            assert torch.equal(a, b)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_model(tmp_path / "nowhere.safetensors")
