"""The task in docs/tasks.md works as it stands, registered as a package of its own."""

from __future__ import annotations

import csv
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sparsevit
from sparsevit import metrics
from sparsevit.data.sources import open_splits, open_training
from sparsevit.errors import ConfigError, DatasetError
from sparsevit.search.steps import Session
from sparsevit.tasks.registry import TASKS, task_class, task_names
from sparsevit.training.dense import train
from sparsevit.training.settings import TrainingSettings

DOCS = Path(__file__).parents[3] / "docs"
NAMES = ["red", "green", "blue"]
SHAPE = sparsevit.SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2))


@pytest.fixture
def package(tmp_path: Path, monkeypatch):
    """The example installed: on the path, with the entry points that the page shows."""
    text = (DOCS / "tasks.md").read_text()
    points = re.search(r"```toml\n(.*?)```", text, re.DOTALL).group(1)
    points = points.replace("[project.entry-points.", "[").replace('"', "")
    info = tmp_path / "site" / "multilabel-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: multilabel\nVersion: 1\n")
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    yield importlib.import_module("multilabel")
    sys.modules.pop("multilabel")
    task_class.cache_clear()
    metrics._kind.cache_clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Squares of the named colours on grey."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 12)):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        rows = []
        for index in range(count):
            image = generator.integers(90, 110, (56, 56, 3), dtype=np.uint8)
            present = [i for i in range(3) if (index >> i) & 1]
            for colour in present:
                top, left = generator.integers(0, 40, 2)
                image[top : top + 16, left : left + 16] = 255 * np.eye(3)[colour]
            Image.fromarray(image).save(folder / f"{index}.png")
            rows.append((f"{index}.png", " ".join(NAMES[i] for i in present)))
        with open(folder / "labels.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return tmp_path / "data"


def test_the_page_shows_the_example_as_it_is() -> None:
    shown = re.findall(r"```python\n(.*?)```", (DOCS / "tasks.md").read_text(), re.DOTALL)
    assert (DOCS / "examples" / "multilabel.py").read_text() in shown


def test_the_page_names_every_task() -> None:
    text = (DOCS / "tasks.md").read_text()
    for name in TASKS:
        task = task_class(name)
        assert task.__name__ in text
        assert task.task in text
        assert all(f"`{reader}`" in text for reader in task.readers)


def test_a_task_of_another_package_goes_all_the_way(package, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = package.MultiLabelModel(sparsevit.SparseSwin(SHAPE), NAMES)
    sparsevit.save_model(made, tmp_path / "model.safetensors")
    model = sparsevit.load_model(tmp_path / "model.safetensors")
    assert type(model) is task_class("multi_label") is package.MultiLabelModel
    assert "multi_label" in task_names()

    before = loss(model, data)
    settings = TrainingSettings(steps=12, batch=8, learning_rate=2e-3)
    train(model, open_training(str(data), model), settings)
    assert loss(model, data) < before
    sparsevit.save_model(model, tmp_path / "trained.safetensors")

    session = Session(tmp_path / "trained.safetensors", str(data), input={"threads": 1})
    assert session.inspect()["task"] == "multi_label"
    dense, half = session.states(session.splits.search, [(0, 0), (5, 5)], range(9))
    for states in (dense, half):
        state = metrics.merge(states, model.metric)
        low, high = metrics.interval(states, model.metric)
        assert 0 <= low <= metrics.value(state, model.metric) <= high <= 1
        assert metrics.details(state, model.metric).keys() == {"precision", "recall"}


def loss(model, data: Path) -> float:
    images, targets = zip(*map(open_training(str(data), model).sample, range(24)), strict=True)
    with torch.no_grad():
        return model.loss(model.preprocess(images), targets).item()


def test_its_reader_names_what_is_wrong(package, data: Path) -> None:
    model = package.MultiLabelModel(sparsevit.SparseSwin(SHAPE), NAMES[:2])
    with pytest.raises(DatasetError, match="labels the model lacks: \\['blue'\\]"):
        len(open_splits(str(data), model).search)
    with pytest.raises(DatasetError, match=r"expected SPLIT/labels\.csv"):
        len(open_splits({"path": str(data), "search_split": "night"}, model).search)


def test_without_the_package_its_task_is_unknown() -> None:
    with pytest.raises(ConfigError, match="comes with a package"):
        task_class("multi_label")
