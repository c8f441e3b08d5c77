"""A small training that has everything random in it: order, configs, augmentation, dropout."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sparsevit.data.digits import CLASSES, DigitCanvases
from sparsevit.data.preprocess import Preprocess
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.semantic import SegmentationModel
from sparsevit.training.settings import TrainingSettings

SETTINGS = TrainingSettings(
    steps=7, batch=2, accumulate=2, learning_rate=1e-2, warmup=0, schedule="step", seed=5
)
SIZE = (56, 84)


@dataclass(frozen=True)
class Canvases:
    """Canvases that do not vary themselves: the task's augmentation applies."""

    count: int = 6

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return DigitCanvases("train", self.count, 112, packed=True).sample(index)

    def files(self, index: int) -> tuple[Path, ...]:
        return ()


def small_model(dropout: float = 0.0, background_weight: float = 0.3) -> SegmentationModel:
    torch.manual_seed(0)
    backbone = SparseSwin(SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2)))
    model = SegmentationModel(
        backbone,
        CLASSES,
        preprocess=Preprocess((0.45,) * 3, (0.25,) * 3),
        background=0,
        background_weight=background_weight,
    )
    if dropout:
        model.head = nn.Sequential(model.head, nn.Dropout(dropout))
    return model.eval()


def in_one_forward(settings: TrainingSettings) -> TrainingSettings:
    """The same step's images in one forward."""
    return replace(settings, batch=settings.step_images, accumulate=1)


def digest(model: TaskModel) -> str:
    """Of every bit of the weights."""
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()
