"""The library's commands, as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import sparsevit
from sparsevit.commands import register
from sparsevit.data.digits import LABEL_STRIDE, DigitCanvases
from sparsevit.data.sources import open_training
from sparsevit.errors import ConfigError, DatasetError
from sparsevit.search.steps import Session
from sparsevit.search.verify import Verification
from sparsevit.sparsity.config import DEFAULT_SCORE
from sparsevit.tasks.classification import ClassificationModel
from sparsevit.training.settings import recommended
from sparsevit.training.slices import SlicedTraining
from tests.sparsevit.training.small import digest

BLOCK = np.ones((LABEL_STRIDE, LABEL_STRIDE), np.uint8)


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


def test_a_killed_training_goes_on_when_it_is_called_again(app, tmp_path: Path) -> None:
    """What a kill leaves: a checkpoint beside the output, and no output."""
    whole, halted = tmp_path / "whole.safetensors", tmp_path / "halted.safetensors"
    options = ("--steps", 4, "--batch", 1, "--accumulate", 1, "--height", 112, "--width", 112)
    command = ("adapt", "builtin:digits", "builtin:digits", *options)
    assert invoke(app, *command, "-o", whole).exit_code == 0
    checkpoint = tmp_path / "halted.safetensors.training"
    half_way(checkpoint)
    done = invoke(app, *command, "-o", halted)
    assert done.exit_code == 0, done.output
    assert "goes on at step 2 of 4" in done.output
    expected = digest(sparsevit.load_model(whole))
    assert digest(sparsevit.load_model(halted)) == expected
    assert not checkpoint.exists()

    half_way(checkpoint)
    with pytest.raises(sparsevit.errors.ConfigError, match="another training: its settings"):
        invoke_or_raise(app, *command, "--seed", 1, "-o", halted)
    done = invoke(app, *command, "--seed", 1, "--restart", "-o", halted)
    assert "goes on" not in done.output
    assert digest(sparsevit.load_model(halted)) != expected


def half_way(checkpoint: Path) -> None:
    model = sparsevit.load_model("builtin:digits")
    settings = recommended(model.task, "adapt").updated({"steps": 4, "batch": 1, "accumulate": 1})
    data, score = open_training("builtin:digits", model), DEFAULT_SCORE
    model.preprocess = model.preprocess.updated({"resize": (112, 112)})
    SlicedTraining(model, data, "adapt", settings, score, None, None, checkpoint).run(until=2)


def invoke_or_raise(app: typer.Typer, *arguments: object) -> None:
    CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_a_config_is_finetuned_at_the_size_it_was_searched_at(app, tmp_path: Path) -> None:
    best, _ = best_json(tmp_path, {"path": str(scenes(tmp_path))})
    root, tuned = tmp_path / "scenes", tmp_path / "tuned.safetensors"
    command = ("finetune", "builtin:digits", root, "--config", best, "-o", tuned, "--steps", 1)
    done = invoke(app, *command, "--batch", 2, "--accumulate", 1)
    assert done.exit_code == 0, done.output
    assert sparsevit.load_model(tuned).preprocess.resize == (112, 168)
    done = invoke(app, *command, "--batch", 2, "--accumulate", 1, "--crop", "56x84")
    assert done.exit_code == 0, done.output
    assert "HEIGHTxWIDTH" in invoke(app, *command, "--crop", "large").output
    assert "together" in invoke(app, *command, "--height", "64").output


def test_scores_are_shown_while_training(app, tmp_path: Path) -> None:
    done = invoke(
        *(app, "adapt", "builtin:digits", scenes(tmp_path), "-o", tmp_path / "out.safetensors"),
        *("--steps", 3, "--batch", 1, "--accumulate", 1, "--height", 112, "--width", 112),
        *("--eval-every", 2, "--learning-rate", 1e-6),
    )
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert re.search(r"digit_miou 0\.\d{3} dense, 0\.\d{3} at 0\.5", text)


def scenes(folder: Path) -> Path:
    """Canvases as image and annotation files: the layout that people have."""
    root = folder / "scenes"
    for split, digits, count in (("train", "train", 4), ("val", "search", 10)):
        canvases = DigitCanvases(digits, count, 224, packed=True)
        for index in range(count):
            image, labels = canvases.sample(index)
            for kind, pixels in (("images", image), ("annotations", np.kron(labels, BLOCK))):
                path = root / kind / split / f"{index:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def best_json(folder: Path, dataset: dict) -> tuple[Path, dict]:
    """A best config as a search writes it, without what it takes to time one (test_run_search.py
    has one that was timed), and its `metric`."""
    session = Session("builtin:digits", dataset, input={"height": 112, "width": 168})
    genes = (0, 3, 4, 5, 8)
    parts = {
        name: Verification.score(SimpleNamespace(session=session), part, [genes])[genes].to_dict()
        for name, part in (("report", session.splits.report), ("search", session.splits.search))
    }
    search = parts["search"] | {"split": session.splits.search_name}
    metric = parts["report"] | {"split": session.splits.report_name, "search": search}
    document = {
        "schema_version": 1,
        "weights": {"sha256": session.model.weights_sha256},
        "input": session.input,
        "preprocess": session.preprocess.to_dict(),
        **session.sparsity(genes).to_dict(),
        "metric": metric,
    }
    path = folder / "best.json"
    path.write_text(json.dumps(document))
    return path, metric


def test_evaluating_a_best_config_finds_the_metric_that_it_states(app, tmp_path: Path) -> None:
    """On both parts of a split of which one is held out."""
    root = scenes(tmp_path)
    best, stated = best_json(tmp_path, {"path": str(root), "limit": 9, "holdout": 0.4})
    options = ("--config", best, "--limit", 9, "--holdout", 0.4)
    command = ("evaluate", "builtin:digits", root, *options)
    for split, metric in ((None, stated), ("val:search", stated["search"])):
        wanted = () if split is None else ("--split", split)
        done = CliRunner().invoke(app, [str(a) for a in (*command, *wanted, "--json")])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["split"] == (split or "val:holdout")
        assert found["value"] == found["stated"] == metric["value"]
        assert found["interval"] == metric["interval"]
    assert found["images"] == 5
    assert set(found["details"]) == {"pixel_accuracy"}
    assert "the config states: the same" in invoke(app, *command).output
    with pytest.raises(sparsevit.errors.DatasetError, match="no split 'val:all' here"):
        invoke_or_raise(app, *command, "--split", "val:all")


@pytest.mark.parametrize("name", ["best.safetensors", "tuned.json"])
def test_finetuning_overwrites_no_config(app, tmp_path: Path, name: str) -> None:
    config = tmp_path / "best.json"
    config.write_text(json.dumps({"sparsity": [[0.5], [0.5], [0.5, 0.6, 0.7]]}))
    digits = ("builtin:digits", "builtin:digits", "--config", config, "--steps", 1)
    with pytest.raises(ConfigError, match="give another --output"):
        invoke_or_raise(app, "finetune", *digits, "-o", tmp_path / name)
    assert [*tmp_path.iterdir()] == [config]


def test_an_output_that_cannot_be_written_is_found_before_training(app, tmp_path: Path) -> None:
    adapting = ("adapt", "builtin:digits", "builtin:digits", "--steps", 1, "-o")
    (tmp_path / "file").touch()
    for output in (tmp_path, tmp_path / "file" / "supernet.safetensors"):
        with pytest.raises(ConfigError, match="cannot be written"):
            invoke_or_raise(app, *adapting, output)


@pytest.mark.parametrize("command", ["evaluate", "finetune", "bench"])
def test_a_config_that_does_not_exist_is_named(app, command: str) -> None:
    given = ["builtin:digits"] * (1 if command == "bench" else 2)
    output = ("-o", "out.safetensors") if command == "finetune" else ()
    done = invoke(app, command, *given, "--config", "nowhere.json", *output)
    assert done.exit_code == 2
    assert "nowhere.json" in done.output


def test_evaluating_without_a_config_is_dense(app) -> None:
    done = CliRunner().invoke(
        app, ["evaluate", "builtin:digits", "builtin:digits", "--limit", "3", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["sparsity"] == [[0.0], [0.0], [0.0] * 3]
    assert (found["images"], found["stated"]) == (3, None)


def test_images_of_several_sizes_are_evaluated_at_the_size_that_is_given(
    app, tmp_path: Path
) -> None:
    """Most classifiers' files state no size, and the images of ImageNet have many."""
    rng = np.random.default_rng(0)
    for i, size in enumerate(((225, 301), (40, 33), (64, 64))):
        path = tmp_path / "val" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    backbone = sparsevit.SparseSwin(
        sparsevit.SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2)), out_stages=(1,)
    )
    model = tmp_path / "model.safetensors"
    sparsevit.save_model(ClassificationModel(backbone, ["a", "b"]), model)
    with pytest.raises(DatasetError, match="--height and --width"):
        invoke_or_raise(app, "evaluate", model, tmp_path)
    done = invoke(app, "evaluate", model, tmp_path, "--height", 64, "--width", 96)
    assert done.exit_code == 0, done.output
    assert "on 3 images of val" in done.output


@pytest.mark.alone
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
    task = found["task"]
    assert (task["name"], task["metric"]) == ("semantic_segmentation", "digit_miou")
    assert (len(task["class_names"]), task["preprocess"]["mean"]) == (11, [0.45] * 3)
    assert len(found["left"]["a head"]) > 0
    network = sparsevit.load_model("builtin:digits").backbone
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert found["loaded"] == len(network.state_dict())


def test_inspect_says_what_task_a_head_is_for(app) -> None:
    done = invoke(app, "inspect", "builtin:digits")
    assert "With its head: semantic_segmentation, 11 classes, metric digit_miou" in done.output
    assert '"interpolation": "bilinear"' in done.output


def test_every_command_shows_an_example(app) -> None:
    for name in ("inspect", "adapt", "finetune", "evaluate", "bench"):
        text = invoke(app, name, "--help").output
        assert f"Example: sparsevit {name}" in " ".join(text.split())
