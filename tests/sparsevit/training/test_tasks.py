"""Every task's own loss and augmentation under the loop: what they draw is drawn again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsevit
from sparsevit.data.digits import DigitCanvases
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.classification import ClassificationModel
from sparsevit.training.slices import train_slice
from tests.sparsevit.integrations import models
from tests.sparsevit.training.small import SETTINGS, Canvases, digest

CLASSES = 5  # of the transformers models


@dataclass(frozen=True)
class FewLabels(Canvases):
    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, labels = super().sample(index)
        return image, labels % CLASSES


@dataclass(frozen=True)
class Labelled(Canvases):
    def sample(self, index: int) -> tuple[np.ndarray, int]:
        return DigitCanvases("train", self.count, 112, packed=True).sample(index)[0], index % 3


def classifier(folder: Path) -> TaskModel:
    torch.manual_seed(0)
    shape = sparsevit.SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2))
    backbone = sparsevit.SparseSwin(shape, out_stages=(1,))
    return ClassificationModel(backbone, ["a", "b", "c"], label_smoothing=0.1)


def saved(build: Callable) -> Callable[[Path], TaskModel]:
    def load(folder: Path) -> TaskModel:
        if not folder.exists():
            torch.manual_seed(0)
            build().save_pretrained(folder)
        return sparsevit.load_model(folder)

    return load


@pytest.mark.parametrize(
    ("load", "dataset"),
    [
        pytest.param(classifier, Labelled(), id="classification"),
        pytest.param(saved(models.upernet), FewLabels(), id="upernet"),  # batch norm
        pytest.param(saved(models.mask2former), FewLabels(), id="mask2former"),  # random points
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_slices_give_the_weights_of_one_piece(
    load, dataset, precision: str, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, steps=3, accumulate=1, learning_rate=1e-4, precision=precision)
    options = {"score": "variance", "size": (64, 96)}
    whole, done = load(tmp_path / "model"), False
    train_slice(whole, dataset, "adapt", settings, checkpoint=tmp_path / "whole.pt", **options)
    while not done:
        model, checkpoint = load(tmp_path / "model"), tmp_path / "sliced.pt"
        torch.manual_seed(int(checkpoint.exists()))
        done = train_slice(
            model, dataset, "adapt", settings, checkpoint=checkpoint, seconds=0.0, **options
        ).done
    assert digest(model) == digest(whole) != digest(load(tmp_path / "model"))
