"""Which part of a file is the backbone, and what becomes of the rest."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.load import backbone_from_tensors, load_backbone
from sparsevit.swin.checkpoints.recognise import DIALECTS
from sparsevit.swin.checkpoints.save import backbone_to_tensors
from sparsevit.swin.config import SMALL_MAPS, SwinConfig
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


def save(tmp_path: Path, **parts: dict[str, torch.Tensor]) -> Path:
    torch.save(parts, tmp_path / "swin.pth")
    return tmp_path / "swin.pth"


def test_an_ema_copy_is_left_for_the_trained_weights(tmp_path: Path) -> None:
    plain, ema = small_state(), {k: torch.zeros_like(v) for k, v in small_state().items()}
    model = load_backbone(save(tmp_path, model_ema=ema, state_dict=plain, ema_state_dict=ema))
    assert torch.equal(model.patch_embed.proj.weight, plain["patch_embed.proj.weight"])
    report = model.load_report
    assert report.prefix == "state_dict."
    assert len(report.left["an EMA copy"]) == 2 * len(plain)
    assert report.notes[0] == (
        "The file holds 3 Swins; the one under 'state_dict.' was loaded, not those under "
        "'model_ema.', 'ema_state_dict.'."
    )


def test_an_ema_copy_alone_is_loaded(tmp_path: Path) -> None:
    report = load_backbone(save(tmp_path, model_ema=small_state())).load_report
    assert (report.prefix, report.left) == ("model_ema.", {})


def test_of_two_networks_the_one_less_deep_inside_is_loaded(tmp_path: Path) -> None:
    state = small_state()
    model = load_backbone(save(tmp_path, model=state, teacher={"model": state}))
    assert model.load_report.prefix == "model."
    left = model.load_report.left["another part of a larger model"]
    assert left[0].startswith("teacher.model.")
    assert len(left) == len(state)


def test_why_each_tensor_was_left(tmp_path: Path) -> None:
    model = {f"backbone.{key}": value for key, value in small_state().items()}
    ones = torch.ones(1)
    model |= {
        "backbone.layers.0.blocks.1.attn.relative_position_index": ones,
        "backbone.layers.0.blocks.1.attn_mask": ones,
        "backbone.mask_token": ones,
        "backbone.norm.weight": ones,
        "head.fc.weight": ones,
        "decode_head.conv.weight": ones,
        "ema_backbone_layers": ones,
    }
    optimizer = {"state": {0: {"exp_avg": ones}}}
    path = save(tmp_path, model=model, optimizer=optimizer, lr_scheduler={"base": ones})
    report = load_backbone(path).load_report
    assert report.left == {
        "follows from the architecture": (
            "model.backbone.layers.0.blocks.1.attn.relative_position_index",
            "model.backbone.layers.0.blocks.1.attn_mask",
        ),
        "only used in pre-training": ("model.backbone.mask_token",),
        "an EMA copy": ("model.ema_backbone_layers",),
        "state of the training": ("lr_scheduler.base", "optimizer.state.0.exp_avg"),
        "a head": ("model.head.fc.weight",),
        "a final norm that a backbone with stage norms does not use": (
            "model.backbone.norm.weight",
        ),
        "another part of a larger model": ("model.decode_head.conv.weight",),
    }
    assert report.loaded == len(small_state())


def test_the_report_reads_well(tmp_path: Path) -> None:
    state = {f"encoder.{key}": value for key, value in small_state().items()}
    state |= {f"head.{i}\x1b[31m": torch.ones(1) for i in range(4)}
    torch.save({k: v for k, v in state.items() if "norm0" not in k}, tmp_path / "swin.pth")
    report = load_backbone(tmp_path / "swin.pth").load_report
    assert str(report) == (
        f"{tmp_path}/swin.pth: 30 tensors, dialect microsoft under 'encoder.'.\n"
        r"Left, a head: 4 (head.0\x1b[31m, head.1\x1b[31m, head.2\x1b[31m, ...)." + "\n"
        "It has no output norm for stages 1: there it starts untrained.\n"
        "Maps no larger than a window: whole, as the original code does with such files."
    )
    assert json.loads(json.dumps(report.to_dict()))["left"] == {
        "a head": [f"head.{i}\x1b[31m" for i in range(4)]
    }


@pytest.mark.parametrize("small_map", SMALL_MAPS)
def test_the_users_small_map_wins(tmp_path: Path, small_map: str) -> None:
    model = load_backbone(save(tmp_path, model=small_state()), small_map=small_map)
    assert model.config.small_map == small_map
    assert model.load_report.notes[-1] == f"Maps no larger than a window: {small_map}."


@pytest.mark.parametrize(
    "key",
    [
        "layers.0.blocks.0.attn.cpb_mlp.0.weight",
        "encoder.layers.0.blocks.0.attention.self.continuous_position_bias_mlp.0.weight",
        "features.1.0.attn.logit_scale",
        "stages.0.blocks.0.attn.w_msa.logit_scale",
    ],
)
def test_swin_v2_is_refused_by_name(tmp_path: Path, key: str) -> None:
    torch.save({"model": {key: torch.ones(1)}}, tmp_path / "swin.pth")
    with pytest.raises(CheckpointMismatch, match=rf"is a Swin V2 \(model\.{key}\)"):
        load_backbone(tmp_path / "swin.pth")


def test_a_logit_scale_elsewhere_is_no_swin_v2(tmp_path: Path) -> None:
    """CLIP and cosine attention in a decoder have one too."""
    other = {"decoder.attn.logit_scale": torch.ones(1), "logit_scale": torch.ones(1)}
    state = {f"backbone.{key}": value for key, value in small_state().items()} | other
    torch.save(state, tmp_path / "swin.pth")
    left = load_backbone(tmp_path / "swin.pth").load_report.left
    assert left == {"another part of a larger model": tuple(sorted(other))}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_missing_is_named_as_the_file_would(tmp_path: Path, dialect: str) -> None:
    config = SwinConfig(embed_dim=4, depths=(2, 2), num_heads=(1, 1), window_size=2)
    state = backbone_to_tensors(SparseSwin(config), dialect=dialect, prefix="a.")
    for ours in ("layers.1.blocks.1.mlp.fc2.bias", "patch_embed.proj.weight"):
        (theirs,) = DIALECTS[dialect].keys(ours)
        rest = {key: value for key, value in state.items() if key != f"a.{theirs}"}
        torch.save(rest, tmp_path / "swin.pth")
        with pytest.raises(CheckpointMismatch, match=re.escape(f"a.{theirs}")):
            load_backbone(tmp_path / "swin.pth")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_layer_scale_is_refused_in_every_dialect(tmp_path: Path, dialect: str) -> None:
    config = SwinConfig(embed_dim=4, depths=(2, 2), num_heads=(1, 1), window_size=2)
    state = backbone_to_tensors(SparseSwin(config), dialect=dialect, prefix="a.")
    place = DIALECTS[dialect].keys("layers.1.blocks.0.norm1.weight")[0].rsplit(".", 2)[0]
    for extra in (f"a.{place}.gamma_1", "a.absolute_pos_embed"):
        torch.save(state | {extra: torch.ones(4)}, tmp_path / "swin.pth")
        with pytest.raises(CheckpointMismatch, match=re.escape(extra)):
            load_backbone(tmp_path / "swin.pth")


@pytest.mark.parametrize("ratio", [1 / 49, 100 / 49, 3.5, 3 / 7])
def test_the_width_of_the_mlp_survives_division(ratio: float) -> None:
    hidden = round(49 * ratio)
    config = SwinConfig(
        embed_dim=49,
        depths=(2, 2, 2),
        num_heads=(7, 7, 7),
        window_size=2,
        mlp_ratio=(hidden + 0.6) / 49,
    )
    state = SparseSwin(config).state_dict()
    assert state["layers.0.blocks.0.mlp.fc1.weight"].shape[0] == hidden
    again = backbone_from_tensors(state, "it")
    assert again.state_dict().keys() == state.keys()
    for stage, layer in enumerate(again.layers):
        ours = state[f"layers.{stage}.blocks.0.mlp.fc1.weight"]
        assert torch.equal(layer.blocks[0].mlp.fc1.weight, ours)


def test_a_norm_with_half_its_tensors_is_named(tmp_path: Path) -> None:
    state = small_state()
    del state["norm0.bias"]
    torch.save(state, tmp_path / "swin.pth")
    with pytest.raises(CheckpointMismatch, match=r"missing \['norm0\.bias'\]"):
        load_backbone(tmp_path / "swin.pth")


def test_odd_depths_are_no_swin(tmp_path: Path) -> None:
    state = {k: v for k, v in small_state().items() if "blocks.1" not in k}
    torch.save(state, tmp_path / "swin.pth")
    with pytest.raises(CheckpointMismatch, match="even number"):
        load_backbone(tmp_path / "swin.pth")


def test_a_file_of_ten_thousand_swins_is_answered_at_once(tmp_path: Path) -> None:
    signature = "layers.0.blocks.0.attn.qkv.weight"
    state = {f"part{i}.{signature}": torch.zeros(1) for i in range(19_000)}
    save_file(state, tmp_path / "swin.safetensors")
    start = time.process_time()
    with pytest.raises(CheckpointMismatch):
        load_backbone(tmp_path / "swin.safetensors")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t[:, :3], "the architecture needs"),
        (lambda t: t.flatten(), "the architecture needs"),
        (lambda t: t.to(torch.int64), "weights are float16"),
        (lambda t: t * float("nan"), "NaN or infinite"),
        (lambda t: t.double() + 1e300, "NaN or infinite"),
    ],
)
def test_a_bad_tensor_is_named_as_the_file_does(tmp_path: Path, dialect, spoil, message) -> None:
    config = SwinConfig(embed_dim=4, depths=(2, 2), num_heads=(1, 1), window_size=2)
    state = backbone_to_tensors(SparseSwin(config), dialect=dialect)
    (key,) = DIALECTS[dialect].keys("layers.0.downsample.reduction.weight")
    torch.save(state | {key: spoil(state[key])}, tmp_path / "swin.pth")
    with pytest.raises(CheckpointMismatch, match=rf"{re.escape(key)} .*{message}"):
        load_backbone(tmp_path / "swin.pth")
