"""Damaged, hostile and oversized files: each gets its own error, and none runs code."""

from __future__ import annotations

import json
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsevit.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointMismatch,
    CheckpointTooLarge,
    CheckpointUnsafe,
)
from sparsevit.swin.checkpoints.load import load_backbone
from sparsevit.swin.checkpoints.reading import read_tensors
from tests.sparsevit.checkpoints.damage import Canary, header, small_state, spoiled

MANY = json.dumps({f"tensor{i}": {} for i in range(100_000)}).encode()


def test_a_pickle_that_runs_code_is_refused_unopened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for name in ("a.pth", "b.pt", "c.bin"):
        (tmp_path / name).write_bytes(pickle.dumps({"w": Canary(canary)}))
        with pytest.raises(CheckpointError) as caught:
            load_backbone(tmp_path / name)
        assert caught.value.code == "CHECKPOINT_UNSAFE"
    torch.save({"w": Canary(canary)}, tmp_path / "d.pth")
    with pytest.raises(CheckpointUnsafe, match="could run code"):
        load_backbone(tmp_path / "d.pth")
    assert not canary.exists()


def test_a_bare_pickle_is_refused_by_its_name(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": Canary(canary)}))
    with pytest.raises(CheckpointUnsafe, match=r"detectron2's hold NumPy arrays.*convert it once"):
        load_backbone(tmp_path / "model.pkl")
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(CheckpointUnsafe, match=r"is no .safetensors.*save_file"):
        load_backbone(tmp_path / "weights.h5")
    assert not canary.exists()


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
        load_backbone(path)


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    body = json.dumps({"a": entry, "b": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(header(len(body), body) + bytes(16))
    with pytest.raises(CheckpointCorrupt):
        load_backbone(path)


def test_a_truncated_zip_and_a_bomb_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"w": torch.zeros(1000)}, whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:700])
    with pytest.raises(CheckpointError) as caught:
        load_backbone(cut)
    assert caught.value.code in ("CHECKPOINT_CORRUPT", "CHECKPOINT_UNSAFE")
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(10_000_000))
    with pytest.raises(CheckpointTooLarge):
        load_backbone(bomb)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_backbone(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_damaged_torch_files_load_or_say_so(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "swin.pth"
    torch.save(small_state(), path, _use_new_zipfile_serialization=kind == "zip")
    raw = path.read_bytes()
    load_backbone(path)
    refused = 0
    for seed in range(300):
        path.write_bytes(spoiled(raw, random.Random(seed)))
        try:
            load_backbone(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "error", [AssertionError, IndexError, AttributeError, EOFError, struct.error, RecursionError]
)
def test_whatever_torch_raises_is_damage(tmp_path: Path, monkeypatch, error: type) -> None:
    path = tmp_path / "swin.pth"
    torch.save({"w": torch.zeros(1)}, path)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error("broken")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CheckpointCorrupt, match="damaged"):
        read_tensors(path)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 1 TB")])
def test_a_file_that_asks_for_all_memory_is_too_large(
    tmp_path: Path, monkeypatch, error: Exception
) -> None:
    path = tmp_path / "swin.pth"
    torch.save({"w": torch.zeros(1)}, path)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CheckpointTooLarge):
        read_tensors(path)


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"", 0, 1, ""), IndexError()])
def test_a_directory_of_a_zip_that_cannot_be_read_is_damage(
    tmp_path: Path, monkeypatch, error: Exception
) -> None:
    path = tmp_path / "swin.pth"
    torch.save({"w": torch.zeros(1)}, path)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(zipfile.ZipFile, "infolist", fail)
    with pytest.raises(CheckpointCorrupt, match="damaged"):
        read_tensors(path)


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "wide.pth")
    with pytest.raises(CheckpointTooLarge):
        read_tensors(tmp_path / "wide.pth")


def test_dicts_that_refer_to_each_other_do_not_take_forever(tmp_path: Path) -> None:
    value: Any = 0
    for _ in range(4):
        value = dict.fromkeys(range(1000), value)
    torch.save(value, tmp_path / "tangle.pth")
    with pytest.raises(CheckpointTooLarge, match="entries"):
        read_tensors(tmp_path / "tangle.pth")


def test_a_sparse_tensor_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(CheckpointMismatch, match="w is no plain tensor"):
        read_tensors(tmp_path / "sparse.pth")
