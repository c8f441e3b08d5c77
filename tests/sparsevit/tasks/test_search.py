"""A search on other libraries' models and data on disk: from files to a config that holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sparsevit
from sparsevit import metrics
from sparsevit.data.sources import open_splits
from sparsevit.errors import ConfigError
from sparsevit.evaluate import evaluate
from sparsevit.search.steps import Session
from tests.sparsevit.integrations import models
from tests.sparsevit.tasks.classifiers import CLASSES, hugging_network

SIZE = (112, 112)


def picture(seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8))


def classifier(folder: Path) -> tuple[Path, Path]:
    hugging_network().save_pretrained(folder / "model")
    for label in range(CLASSES):
        inside = folder / "data" / "val" / f"class{label}"
        inside.mkdir(parents=True)
        for index in range(2):
            picture(2 * label + index).save(inside / f"{index}.png")
    return folder / "model", folder / "data"


def segmentation(folder: Path, network) -> tuple[Path, Path]:
    network.float().save_pretrained(folder / "model")
    for part in ("images", "annotations"):
        (folder / "data" / part / "val").mkdir(parents=True)
    for index in range(6):
        picture(index).save(folder / "data" / "images" / "val" / f"{index}.png")
        small = np.random.default_rng(index).integers(0, 5, (7, 7), dtype=np.uint8)
        label = small.repeat(16, 0).repeat(16, 1)
        Image.fromarray(label).save(folder / "data" / "annotations" / "val" / f"{index}.png")
    return folder / "model", folder / "data"


def upernet(folder: Path) -> tuple[Path, Path]:
    return segmentation(folder, models.upernet())


def mask2former(folder: Path) -> tuple[Path, Path]:
    return segmentation(folder, models.mask2former())


@pytest.fixture(params=[classifier, upernet, mask2former])
def files(request, tmp_path: Path) -> tuple[Path, Path]:
    return request.param(tmp_path)


INPUT = {"threads": 1, "height": SIZE[0], "width": SIZE[1]}


def test_a_config_reproduces_the_metric_of_its_session(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Nothing but the checkpoint, the data and the config JSON."""
    checkpoint, data = files
    mean = {"mean": [0.4, 0.4, 0.4], "expected_dense_metric": None}
    session = Session(checkpoint, {"path": str(data)}, input=INPUT, preprocess=mean)
    inspection = session.inspect()
    assert inspection["task"] == session.model.task
    genes = tuple(range(1, 1 + sum(session.pairs)))
    report = session.splits.report
    (states,) = session.states(report, [genes], range(len(report)))
    document = {
        "weights": {"sha256": session.model.weights_sha256},
        "preprocess": session.preprocess.to_dict(),
        **session.sparsity(genes).to_dict(),
    }
    (tmp_path / "best.json").write_text(json.dumps(document))

    model = sparsevit.load_model(checkpoint)
    model.set_sparsity(sparsevit.load_config(tmp_path / "best.json"))
    again = open_splits({"path": str(data)}, model).report
    applied = model.backbone.sparsity
    (found,) = evaluate(model, [applied.genes], applied.score, again, range(len(again)))
    assert metrics.merge(found, model.metric) == metrics.merge(states, model.metric)

    # The same numbers in another file are not what it was measured with.
    copy = sparsevit.load_model(checkpoint)
    sparsevit.save_model(copy, tmp_path / "copy.safetensors", torch.float16)
    with pytest.raises(ConfigError, match="was measured with the weights"):
        copy.set_sparsity(sparsevit.load_config(tmp_path / "best.json"))


def test_outputs_in_half_precision(files: tuple[Path, Path]) -> None:
    checkpoint, data = files
    states = []
    for precision in ("fp32", "bf16"):
        session = Session(checkpoint, {"path": str(data)}, input=INPUT | {"precision": precision})
        dense = (0,) * sum(session.pairs)
        (found,) = session.states(session.splits.search, [dense], range(2))
        states.append(metrics.merge(found, session.model.metric))
    assert np.sum(states[0][-1]) > 0
    assert np.shape(states[0]) == np.shape(states[1])
