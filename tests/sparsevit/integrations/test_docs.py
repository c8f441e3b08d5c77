"""The code in docs/integrations.md runs as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sparsevit
from sparsevit.swin.checkpoints.save import save_backbone
from tests.oracles import import_torchvision
from tests.sparsevit.checkpoints.networks import randomise
from tests.sparsevit.integrations import models

DOCS = Path(__file__).parents[3] / "docs" / "integrations.md"
SPARSE = [[0.3], [0.2], [0.5, 0.5, 0.6], [0.0]]

pytestmark = pytest.mark.filterwarnings("ignore:.*trains with drop rates:UserWarning")


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Callable[..., dict[str, object]]:
    """Runs the only block of code that holds a text, in a folder of its own; its names after it."""
    import_torchvision()
    monkeypatch.chdir(tmp_path)

    def run(text: str, **names: object) -> dict[str, object]:
        blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
        (block,) = [block for block in blocks if text in block]
        exec(block, names)
        return names

    return run


def test_sparsify_and_find_backbone(run) -> None:
    Path("best.json").write_text(json.dumps({"sparsity": [[0.5], [0.1, 0.8], [0.2]]}))
    names = run("best.json", model=models.upernet(), images=models.images((112, 112)))
    assert names["backbone"].executed_windows == ((8, 8), (3, 3, 1, 1), (1, 1))
    assert names["outputs"].logits.shape == (1, 5, 112, 112)


def test_a_host_of_transformers_saved_and_loaded(run) -> None:
    models.mask2former().save_pretrained("mask2former-swin-tiny")
    model = run("AutoModelForUniversalSegmentation")["model"]
    assert sparsevit.find_backbone(model).sparsity.genes == (5, 5, 5, 5)


def test_upernet_around_our_config(run) -> None:
    model = run("UperNetConfig")["model"]
    assert sparsevit.find_backbone(model).sparsity.to_dict()["sparsity"] == SPARSE


def test_timm(run) -> None:
    names = run("import timm")
    assert names["backbone"].config == sparsevit.SwinConfig(small_map="axis")
    assert sparsevit.find_backbone(names["model"]).out_stages == (3,)


def test_torchvision(run) -> None:
    names = run("import torchvision")
    assert names["backbone"].config == sparsevit.SwinConfig(small_map="axis")
    assert sparsevit.find_backbone(names["model"]).out_stages == (3,)


def test_the_config_of_openmmlab_builds_and_loads(run) -> None:
    from sparsevit.integrations.openmmlab import SparseSwinTransformer

    source = randomise(sparsevit.SparseSwin())
    save_backbone(source, "swin_tiny_patch4_window7_224.pth")
    names = run("custom_imports")
    assert names["custom_imports"] == {"imports": [SparseSwinTransformer.__module__]}
    arguments = dict(names["model"]["backbone"])
    assert arguments.pop("type") == SparseSwinTransformer.__name__
    model = SparseSwinTransformer(**arguments)
    model.init_weights()
    assert model.backbone.sparsity.to_dict()["sparsity"] == SPARSE
    weights = model.backbone.state_dict()
    assert all(torch.equal(weights[key], t) for key, t in source.state_dict().items())
