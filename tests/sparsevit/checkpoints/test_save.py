"""A backbone written in any dialect is read back bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sparsevit
from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.swin.checkpoints.load import load_backbone
from sparsevit.swin.checkpoints.recognise import DIALECTS
from sparsevit.swin.checkpoints.save import backbone_to_tensors, save_backbone
from sparsevit.swin.config import SMALL_MAPS, SwinConfig
from sparsevit.swin.model import SparseSwin
from tests.sparsevit.checkpoints.networks import randomise

PREFIXES = {"": "", "wrapped": "model.backbone.", "inner": "a.swin.model."}
NORMLESS = ("timm", "timm-features", "torchvision")  # at most a final norm
POSITIONED = ("microsoft", "huggingface", "huggingface-memory", "openmmlab")


def network(dialect: str = "microsoft", **other) -> SparseSwin:
    """Random, as far as the dialect can say it."""
    shape = {"embed_dim": 8, "depths": (2, 4, 2), "num_heads": (1, 2, 4), "window_size": 5}
    model = randomise(SparseSwin(SwinConfig(**(shape | {"mlp_ratio": 3.0} | other))))
    if dialect in NORMLESS:
        for stage in range(3 if dialect == "timm-features" else 2):
            model.get_submodule(f"norm{stage}").reset_parameters()
    return model


def assert_same(again: SparseSwin, model: SparseSwin) -> None:
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("prefix", PREFIXES.values())
@pytest.mark.parametrize("small_map", SMALL_MAPS)
def test_safetensors_round_trip(tmp_path: Path, dialect: str, prefix: str, small_map: str) -> None:
    model = network(dialect, small_map=small_map)
    path = tmp_path / "swin.safetensors"
    sparsevit.save_backbone(model, path, dialect=dialect, prefix=prefix)
    again = sparsevit.load_backbone(path)
    assert_same(again, model)
    assert (again.load_report.dialect, again.load_report.prefix) == (dialect, prefix)
    assert not again.load_report.left


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_torch_round_trip(tmp_path: Path, dialect: str, suffix: str) -> None:
    model = network(dialect, small_map="axis" if dialect in NORMLESS else "shift", qkv_bias=False)
    save_backbone(model, tmp_path / f"swin{suffix}", dialect=dialect)
    assert_same(sparsevit.load_backbone(tmp_path / f"swin{suffix}"), model)


@pytest.mark.parametrize("dialect", POSITIONED)
@pytest.mark.parametrize("small_map", ["shift", "whole"])
def test_positions_round_trip(tmp_path: Path, dialect: str, small_map: str) -> None:
    model = network(dialect, small_map=small_map, absolute_positions=(6, 6))
    save_backbone(model, tmp_path / "swin.pth", dialect=dialect)
    again = sparsevit.load_backbone(tmp_path / "swin.pth", small_map=small_map)
    assert_same(again, model)


def test_positions_of_no_square_are_kept_or_refused(tmp_path: Path) -> None:
    model = network(small_map="whole", absolute_positions=(4, 6))
    save_backbone(model, tmp_path / "swin.pth")
    assert_same(sparsevit.load_backbone(tmp_path / "swin.pth", small_map="whole"), model)
    with pytest.raises(ConfigError, match="4 rows and 6 columns"):
        backbone_to_tensors(model, dialect="openmmlab")
    square = network("timm", absolute_positions=(4, 4))
    with pytest.raises(ConfigError, match="no absolute positions"):
        backbone_to_tensors(square, dialect="timm")


def test_our_own_state_dict_is_read(tmp_path: Path) -> None:
    """Its only name that the original code has not is that of the positions."""
    model = network(absolute_positions=(3, 3))
    torch.save(model.state_dict(), tmp_path / "ours.pt")
    assert_same(sparsevit.load_backbone(tmp_path / "ours.pt"), model)


@pytest.mark.parametrize("small_map", SMALL_MAPS)
def test_what_a_classifier_needs_is_all_that_is_written(small_map: str) -> None:
    model = network("timm", small_map=small_map)
    norms = {key for key in backbone_to_tensors(model) if key.startswith("norm")}
    final = {"norm.weight", "norm.bias"}
    stages = {f"norm{i}.{leaf}" for i in range(3) for leaf in ("weight", "bias")}
    assert norms == (stages if small_map == "shift" else final)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_network_of_some_stages_outputs_keeps_their_norms(tmp_path: Path, dialect: str) -> None:
    shape = SwinConfig(embed_dim=8, depths=(2, 2, 2), num_heads=(1, 2, 4), window_size=5)
    model = SparseSwin(shape, out_stages=(1,))
    if dialect not in NORMLESS:
        randomise(model)
    save_backbone(model, tmp_path / "swin.safetensors", dialect=dialect)
    state = sparsevit.load_backbone(tmp_path / "swin.safetensors").state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


def test_half_precision_stays_in_the_file_and_is_read_as_fp32(tmp_path: Path) -> None:
    model = network().half()
    save_backbone(model, tmp_path / "swin.safetensors", dialect="openmmlab")
    assert {t.dtype for t in load_file(tmp_path / "swin.safetensors").values()} == {torch.float16}
    assert_same(sparsevit.load_backbone(tmp_path / "swin.safetensors"), model.float())


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "deep" / "swin.safetensors"
    save_backbone(network(), path)
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_backbone(randomise(network(), seed=9), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("small_map", "dialect"), [("axis", "microsoft"), ("axis", "openmmlab"), ("shift", "timm")]
)
def test_a_torch_file_that_loses_small_map_says_so(
    small_map: str, dialect: str, tmp_path: Path
) -> None:
    model = SparseSwin(
        SwinConfig(embed_dim=4, depths=(2, 2), num_heads=(1, 1), small_map=small_map)
    )
    with pytest.warns(UserWarning, match=f"small_map='{small_map}'"):
        save_backbone(model, tmp_path / "swin.pth", dialect=dialect)
    save_backbone(model, tmp_path / "swin.safetensors", dialect=dialect)
    assert load_backbone(tmp_path / "swin.safetensors").config.small_map == small_map


def test_transformers_finds_the_format_it_wants(tmp_path: Path) -> None:
    save_backbone(network(), tmp_path / "model.safetensors", dialect="huggingface")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert SwinConfig.from_dict(json.loads(metadata["architecture"])) == network().config


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(ConfigError, match=r"no dialect 'tensorflow'.*'microsoft'"):
        save_backbone(model, tmp_path / "a.pth", dialect="tensorflow")
    with pytest.raises(ConfigError, match="does not end with a dot"):
        save_backbone(model, tmp_path / "a.pth", prefix="backbone")
    with pytest.raises(ConfigError, match="which format"):
        save_backbone(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"), [("{", "no JSON"), ('{"small_map": "never"}', "small_map"), ("[]", None)]
)
def test_metadata_is_not_believed(tmp_path: Path, text: str, message: str | None) -> None:
    path = tmp_path / "swin.safetensors"
    save_file(backbone_to_tensors(network()), path, {"architecture": text})
    if message is None:
        assert sparsevit.load_backbone(path).config.small_map == "shift"
        return
    with pytest.raises(CheckpointMismatch, match=message):
        sparsevit.load_backbone(path)


def test_a_merged_file_keeps_the_rest(tmp_path: Path) -> None:
    """How a detector gets a backbone back that was trained here: docs/checkpoints.md."""
    theirs = backbone_to_tensors(network(), dialect="openmmlab", prefix="backbone.")
    save_file(theirs | {"neck.w": torch.ones(2)}, tmp_path / "detector.safetensors")
    model = sparsevit.load_backbone(tmp_path / "detector.safetensors")
    randomise(model, seed=4)
    report = model.load_report
    merged = load_file(tmp_path / "detector.safetensors") | backbone_to_tensors(
        model, dialect=report.dialect, prefix=report.prefix
    )
    assert merged.keys() == {*theirs, "neck.w"}
    save_file(merged, tmp_path / "detector.safetensors")
    assert_same(sparsevit.load_backbone(tmp_path / "detector.safetensors"), model)
