"""Which part of a file is the backbone, and what becomes of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.load import load_backbone
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from tests.sparsevit.checkpoints.damage import small_state


def test_a_network_that_is_no_swin_is_named(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    save_file(other.state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointMismatch, match="no Swin backbone"):
        load_backbone(tmp_path / "resnet.safetensors")


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


def test_a_backbone_is_compared_before_it_gets_memory(tmp_path: Path, monkeypatch) -> None:
    built: list[str] = []

    def build(config: SwinConfig) -> SparseSwin:
        network = SparseSwin(config)
        built.append(network.patch_embed.proj.weight.device.type)
        return network

    monkeypatch.setattr("sparsevit.swin.checkpoints.load.SparseSwin", build)
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
