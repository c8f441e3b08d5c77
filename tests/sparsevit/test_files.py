"""Checkpoint files: what was saved loads unchanged; what is no checkpoint of ours says why."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

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
    ConfigError,
)
from sparsevit.swin.checkpoints.microsoft import load_backbone
from sparsevit.swin.checkpoints.reading import read_tensors
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


def spoiled(raw: bytes, rng: random.Random) -> bytes:
    """The bytes with some of them changed, or cut short."""
    if rng.random() < 0.3:
        return raw[: rng.randrange(len(raw))]
    changed = bytearray(raw)
    # Half of the changes fall where a file keeps its structure: at its start and its end.
    span = len(raw) if rng.random() < 0.5 else min(len(raw), 1500)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(span)
        changed[place if rng.random() < 0.7 else len(raw) - 1 - place] = rng.randrange(256)
    return bytes(changed)


def small_state() -> dict[str, torch.Tensor]:
    return SparseSwin(
        SwinConfig(embed_dim=4, depths=(2,), num_heads=(1,), window_size=2)
    ).state_dict()


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


@pytest.mark.parametrize(
    "key",
    [
        "layers.0.blocks.0.gamma_1",
        "absolute_pos_embed",
        "patch_embed.extra",
        "layers.0.blocks.1.attn.logit_scale",
        "layers.999999999.blocks.0.attn.proj.bias",
        "layers.3.downsample.norm.weight",
    ],
)
def test_a_backbone_tensor_without_a_place_is_named(tmp_path: Path, key: str) -> None:
    torch.save(small_state() | {key: torch.ones(4)}, tmp_path / "swin.pth")
    with pytest.raises(CheckpointMismatch, match=key):
        load_backbone(tmp_path / "swin.pth")


def test_heads_are_left_out(tmp_path: Path) -> None:
    state = {"model." + key: value for key, value in small_state().items()}
    for key in ("model.head.weight", "fc.weight", "decode_head.conv.weight", "optimizer.step"):
        state[key] = torch.ones(4)
    torch.save(state, tmp_path / "swin.pth")
    assert load_backbone(tmp_path / "swin.pth").config.embed_dim == 4


def test_the_final_norm_of_a_classifier_is_the_last_output_norm(tmp_path: Path) -> None:
    config = SwinConfig(embed_dim=4, depths=(2, 2), num_heads=(1, 1), window_size=2)
    state = {k: v for k, v in SparseSwin(config).state_dict().items() if not k.startswith("norm")}
    state |= {"norm.weight": torch.full((8,), 3.0), "norm.bias": torch.full((8,), 5.0)}
    torch.save(state, tmp_path / "swin.pth")
    again = load_backbone(tmp_path / "swin.pth")
    assert torch.equal(again.norm1.weight, torch.full((8,), 3.0))
    assert torch.equal(again.norm1.bias, torch.full((8,), 5.0))
    assert torch.equal(again.norm0.weight, torch.ones(4))


@pytest.mark.parametrize(
    ("key", "naming"),
    [
        ("swin.encoder.layers.0.blocks.0.attention.self.query.weight", "Hugging Face"),
        ("features.1.0.attn.qkv.weight", "torchvision"),
        ("backbone.stages.0.blocks.0.attn.w_msa.qkv.weight", "OpenMMLab"),
    ],
)
def test_swins_in_other_namings_are_recognised(tmp_path: Path, key: str, naming: str) -> None:
    save_file({key: torch.zeros(1)}, tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointMismatch, match=f"{naming}.*original naming only"):
        load_backbone(tmp_path / "swin.safetensors")


def test_a_backbone_is_compared_before_it_gets_memory(tmp_path: Path, monkeypatch) -> None:
    built: list[str] = []

    def build(config: SwinConfig) -> SparseSwin:
        network = SparseSwin(config)
        built.append(network.patch_embed.proj.weight.device.type)
        return network

    monkeypatch.setattr("sparsevit.swin.checkpoints.microsoft.SparseSwin", build)
    state = small_state()
    state["patch_embed.proj.weight"] = torch.zeros(4096, 3, 1, 1)
    save_file(state, tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointMismatch, match="the architecture needs"):
        load_backbone(tmp_path / "swin.safetensors")
    assert built == ["meta"]


def test_a_backbone_without_channels_is_named(tmp_path: Path) -> None:
    state = small_state() | {"patch_embed.proj.weight": torch.zeros(0, 3, 4, 4)}
    save_file(state, tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointMismatch, match="is none"):
        load_backbone(tmp_path / "swin.safetensors")


def test_a_swin_config_is_checked_where_it_is_made() -> None:
    with pytest.raises(ConfigError, match="too large for a network"):
        SwinConfig(window_size=64)
    with pytest.raises(ConfigError, match="embed_dim is 0"):
        SwinConfig(embed_dim=0)
