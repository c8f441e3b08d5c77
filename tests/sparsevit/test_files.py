"""Task model files: what was saved loads unchanged; what is none of ours says why."""

from __future__ import annotations

import json
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sparsevit
from sparsevit.errors import (
    CheckpointError,
    CheckpointMismatch,
    ConfigError,
)
from sparsevit.swin.config import SwinConfig
from sparsevit.tasks.files import load_model, save_model, sha256_file
from tests.sparsevit.checkpoints.damage import spoiled


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


def test_a_network_that_is_no_swin_is_named(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    save_file(other.state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointMismatch, match="no Swin backbone"):
        load_model(tmp_path / "resnet.safetensors")


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


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_model(tmp_path / "nowhere.safetensors")


def test_damaged_safetensors_load_or_say_so(tiny_model, saved: Path) -> None:
    raw = saved.read_bytes()
    refused = 0
    for seed in range(300):
        saved.write_bytes(spoiled(raw, random.Random(seed)))
        try:
            load_model(saved)
        except CheckpointError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_floats_are_named(saved: Path, dtype: torch.dtype) -> None:
    tensors, metadata = load_file(saved), metadata_of(saved)
    tensors["head.classifier.bias"] = tensors["head.classifier.bias"].to(dtype)
    save_file(tensors, saved, metadata)
    with pytest.raises(CheckpointMismatch, match=r"head\.classifier\.bias is torch"):
        load_model(saved)


def test_a_weight_that_is_infinite_in_fp32_is_named(saved: Path) -> None:
    tensors, metadata = load_file(saved), metadata_of(saved)
    tensors["head.classifier.bias"] = torch.full((11,), 1e300, dtype=torch.float64)
    save_file(tensors, saved, metadata)
    with pytest.raises(CheckpointMismatch, match="infinite"):
        load_model(saved)


def rewrite(path: Path, part: str, field: str, value: Any) -> None:
    """Changes one field of the metadata, leaving the tensors."""
    metadata = metadata_of(path)
    document = json.loads(metadata[part])
    document[field] = value
    save_file(load_file(path), path, metadata | {part: json.dumps(document)})


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("architecture", "in_channels", 0),
        ("architecture", "in_channels", 4),
        ("architecture", "patch_size", "4"),
        ("architecture", "patch_size", 10**9),
        ("architecture", "embed_dim", -8),
        ("architecture", "embed_dim", True),
        ("architecture", "embed_dim", 10**30),
        ("architecture", "embed_dim", 4096),
        ("architecture", "depths", 5),
        ("architecture", "depths", []),
        ("architecture", "depths", [0, 4]),
        ("architecture", "depths", [2, -2]),
        ("architecture", "depths", [2, 10**9]),
        ("architecture", "depths", [2] * 100),
        ("architecture", "depths", [2, 4.0]),
        ("architecture", "num_heads", [1, 0]),
        ("architecture", "num_heads", "12"),
        ("architecture", "window_size", 0),
        ("architecture", "window_size", 64),
        ("architecture", "window_size", 10**6),
        ("architecture", "mlp_ratio", float("nan")),
        ("architecture", "mlp_ratio", float("inf")),
        ("architecture", "mlp_ratio", 1e300),
        ("architecture", "mlp_ratio", -1),
        ("architecture", "qkv_bias", "yes"),
        ("architecture", "depth", [2]),
        ("head", "task", "cooking"),
        ("head", "task", []),
        ("head", "class_names", "digits"),
        ("head", "class_names", []),
        ("head", "class_names", [1, 2]),
        ("head", "class_names", ["x"] * 256),
        ("head", "head_channels", 0),
        ("head", "head_channels", 10**12),
        ("head", "background", 11),
        ("head", "background", -1),
        ("head", "background", "0"),
        ("head", "background_weight", float("nan")),
        ("head", "background_weight", "much"),
        ("head", "metric_name", 5),
        ("preprocess", "std", [0, 0, 0]),
        ("preprocess", "mean", ["a", "b", "c"]),
        ("preprocess", "mean", [float("inf"), 0, 0]),
        ("preprocess", "resize", [0, -5]),
        ("preprocess", "resize", 3),
        ("preprocess", "crop", 3),
    ],
)
def test_metadata_of_no_model_is_named_at_once(
    saved: Path, part: str, field: str, value: Any
) -> None:
    rewrite(saved, part, field, value)
    start = time.process_time()
    with pytest.raises(CheckpointMismatch):
        load_model(saved)
    assert time.process_time() - start < 3  # the first use of torch's meta device takes one


def test_an_absurd_network_is_compared_before_it_gets_memory(saved: Path) -> None:
    metadata = metadata_of(saved)
    largest = SwinConfig(
        embed_dim=4096, depths=(2,) * 7 + (186,), num_heads=(1,) * 8, window_size=24
    )
    metadata["architecture"] = json.dumps(largest.to_dict())
    save_file(load_file(saved), saved, metadata)
    with pytest.raises(CheckpointMismatch, match="missing"):
        load_model(saved)


@pytest.mark.parametrize("part", ["architecture", "head", "preprocess", "adapted"])
@pytest.mark.parametrize("text", ["[" * 100_000, "5", "[1]", "{"])
def test_metadata_that_is_no_description_is_named(saved: Path, part: str, text: str) -> None:
    save_file(load_file(saved), saved, metadata_of(saved) | {part: text})
    with pytest.raises(CheckpointMismatch):
        load_model(saved)


def test_a_swin_config_is_checked_where_it_is_made() -> None:
    with pytest.raises(ConfigError, match="too large for a network"):
        SwinConfig(window_size=64)
    with pytest.raises(ConfigError, match="embed_dim is 0"):
        SwinConfig(embed_dim=0)
