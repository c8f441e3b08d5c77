"""The library's commands, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import sparsevit
from sparsevit.commands import register


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


def invoke(app: typer.Typer, *arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_adapt_then_finetune_then_deploy(app, tmp_path: Path) -> None:
    adapted, tuned = tmp_path / "adapted.safetensors", tmp_path / "tuned.safetensors"
    options = ("--steps", 2, "--batch", 1)
    done = invoke(
        app, "adapt", "builtin:digits", "builtin:digits", "-o", adapted, *options, "--score", "l2"
    )
    assert done.exit_code == 0, done.output
    assert sparsevit.load_model(adapted).adapted == "l2"

    config = tmp_path / "config.json"
    config.write_text(json.dumps({"sparsity": [[0.5], [0.5], [0.5, 0.6, 0.7]]}))
    done = invoke(
        app, "finetune", adapted, "builtin:digits", "--config", config, "-o", tuned, *options
    )
    assert done.exit_code == 0, done.output
    model = sparsevit.load_model(tuned)
    model.set_sparsity(sparsevit.load_config(tuned.with_suffix(".json")))
    assert model.backbone.sparsity.genes == (5, 5, 5, 6, 7)
    with pytest.raises(sparsevit.errors.ConfigError, match="measured with the weights"):
        sparsevit.load_model(adapted).set_sparsity(
            sparsevit.load_config(tuned.with_suffix(".json"))
        )


def test_bench_times_a_config_beside_dense(app, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    document = {"sparsity": [[0.8], [0.8], [0.8, 0.8, 0.8]]}
    document["input"] = {"height": 112, "width": 112, "batch": 1, "precision": "fp32"}
    config.write_text(json.dumps(document))
    done = CliRunner().invoke(
        app, ["bench", "builtin:digits", "--config", str(config), "--json", "--threads", "1"]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    dense, sparse = result["rows"]
    assert dense["executed_windows"] == [[16, 16], [4, 4], [1] * 6]
    assert sparse["executed_windows"] == [[3, 3], [1, 1], [1] * 6]
    assert sparse["ratio"] < 1


def test_inspect_says_what_a_checkpoint_holds(app, tmp_path: Path) -> None:
    shape = sparsevit.SwinConfig(embed_dim=8, depths=(2, 4), num_heads=(1, 2), small_map="whole")
    path = tmp_path / "swin.pth"
    sparsevit.save_backbone(sparsevit.SparseSwin(shape), path, dialect="timm", prefix="model.")
    done = invoke(app, "inspect", path)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "Swin: dims 8 16, depths 2 4, heads 1 2, window 7, patch 4, 0.02 M parameters.",
        f"{path}: 87 tensors, dialect timm under 'model.'.",
        "Its final norm became the output norm of stage 2.",
        "It has no output norm for stages 1: there it starts untrained.",
        "Maps no larger than a window: axis, as timm does with such files.",
    ]


def test_inspect_in_json(app) -> None:
    done = CliRunner().invoke(app, ["inspect", "builtin:digits", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    architecture = found["architecture"]
    assert (architecture["dims"], architecture["depths"]) == ([24, 48, 96], [2, 2, 6])
    assert (found["dialect"], found["prefix"]) == ("microsoft", "backbone.")
    assert len(found["left"]["a head"]) > 0
    network = sparsevit.load_model("builtin:digits").backbone
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert found["loaded"] == len(network.state_dict())


def test_every_command_shows_an_example(app) -> None:
    for name in ("inspect", "adapt", "finetune", "bench"):
        text = invoke(app, name, "--help").output
        assert f"Example: sparsevit {name}" in " ".join(text.split())
