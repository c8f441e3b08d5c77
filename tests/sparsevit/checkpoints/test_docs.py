"""The code in docs/checkpoints.md runs as it stands."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sparsevit
from sparsevit.swin.checkpoints.recognise import DIALECTS
from sparsevit.swin.checkpoints.save import backbone_to_tensors
from sparsevit.swin.config import SMALL_MAPS
from tests.sparsevit.checkpoints.networks import randomise

DOCS = Path(__file__).parents[3] / "docs" / "checkpoints.md"


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Callable[..., None]:
    """Runs the only block of code that holds a text, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, **names: object) -> None:
        blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
        (block,) = [block for block in blocks if text in block]
        exec(block, {"sparsevit": sparsevit, "torch": torch} | names)

    return run


def network() -> sparsevit.SparseSwin:
    shape = sparsevit.SwinConfig(embed_dim=4, depths=(2, 2), num_heads=(1, 2), window_size=5)
    return randomise(sparsevit.SparseSwin(shape))


def test_loading_and_reporting(run) -> None:
    torch.save({"model": network().state_dict()}, "swin_tiny_patch4_window7_224.pth")
    run("print(backbone.load_report)")


def test_another_window(run) -> None:
    torch.save(network().state_dict(), "swin_large_patch4_window12_384.pth")
    with pytest.warns(UserWarning, match="5 to 7"):
        run("window_size=7")


def test_writing_back_and_merging(run) -> None:
    theirs = backbone_to_tensors(network(), dialect="openmmlab", prefix="backbone.")
    save_file(theirs | {"neck.w": torch.ones(1)}, "detector.safetensors")
    backbone = sparsevit.load_backbone("detector.safetensors")
    run('"back.pth"', backbone=backbone)
    assert torch.load("back.pth", weights_only=True).keys() == theirs.keys()
    randomise(backbone, seed=3)
    run("detector-new.safetensors", backbone=backbone, report=backbone.load_report)
    assert load_file("detector-new.safetensors").keys() == {*theirs, "neck.w"}
    again = sparsevit.load_backbone("detector-new.safetensors")
    assert torch.equal(again.norm1.weight, backbone.norm1.weight)


def test_converting_a_pickle_of_detectron2(run) -> None:
    arrays = {f"backbone.{key}": value.numpy() for key, value in network().state_dict().items()}
    Path("model_final.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    run("model_final.pkl")
    assert sparsevit.load_backbone("model_final.safetensors").load_report.prefix == "backbone."


def test_converting_a_training_checkpoint(run) -> None:
    torch.save({"state_dict": network().state_dict(), "hub": Path()}, "epoch_12.pth")
    with pytest.raises(sparsevit.errors.CheckpointUnsafe):
        sparsevit.load_backbone("epoch_12.pth")
    run("epoch_12.pth")
    assert sparsevit.load_backbone("epoch_12_weights.pth").config.embed_dim == 4


def test_every_dialect_and_rule_has_its_row() -> None:
    rows = set(re.findall(r"^\| `([\w-]+)` \|", DOCS.read_text(), re.MULTILINE))
    assert rows >= {*DIALECTS, *SMALL_MAPS, "CheckpointUnsafe", "CheckpointMismatch"}
