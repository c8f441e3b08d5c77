"""How the shipped digits supernet is made: data, model, schedules and seeds in one place.

Dense training begins on small canvases packed with digits, since whole canvases are nearly all
background and hardly teach anything at first; then whole canvases, then sparsity-aware adaptation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from sparsevit.data.digits import CLASSES, DigitCanvases
from sparsevit.data.preprocess import Preprocess
from sparsevit.sparsity.config import DEFAULT_SCORE
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.semantic import SegmentationModel
from sparsevit.training.adapt import adapt
from sparsevit.training.dense import train
from sparsevit.training.settings import TrainingSettings

THREADS = 2  # part of the recipe: another count sums in another order
CANVAS = 448
PACKED = TrainingSettings(steps=1500, batch=8, learning_rate=2e-3, warmup=50, seed=0)
WHOLE = TrainingSettings(steps=100, batch=4, learning_rate=5e-4, warmup=10, seed=1)
ADAPT = TrainingSettings(steps=240, batch=4, learning_rate=5e-4, warmup=10, seed=2)

StageProgress = Callable[[str, int, int, float], None]


def new_model(seed: int = 0) -> SegmentationModel:
    """The untrained small Swin: three stages whose maps are whole windows at 448 px."""
    torch.manual_seed(seed)
    backbone = SparseSwin(SwinConfig(embed_dim=24, depths=(2, 2, 6), num_heads=(1, 2, 4)))
    return SegmentationModel(
        backbone,
        CLASSES,
        preprocess=Preprocess((0.45, 0.45, 0.45), (0.25, 0.25, 0.25)),
        background=0,
        background_weight=0.3,
        metric_name="digit_miou",
    )


def train_dense(
    progress: StageProgress | None = None, seed: int = 0, steps: int | None = None
) -> SegmentationModel:
    """The dense model, from scratch.

    seed: 0 is the shipped network's; others have other weights, canvases and orders. steps: of either
    part, where only the path is of interest.
    """
    model = new_model(seed)
    for what, settings, size, packed in (
        ("packed canvases", PACKED, 224, True),
        ("whole canvases", WHOLE, CANVAS, False),
    ):
        here = replace(settings, seed=settings.seed + 10 * seed, steps=steps or settings.steps)
        canvases = DigitCanvases("train", here.steps * here.batch, size, packed, seed=10 * seed)
        train(model, canvases, here, _named(progress, what))
    return model


def adapt_digits(
    model: SegmentationModel, score: str = DEFAULT_SCORE, progress: StageProgress | None = None
) -> None:
    """Adapts the dense model in place, on canvases that dense training has not seen."""
    canvases = DigitCanvases("train", ADAPT.steps * ADAPT.batch, CANVAS, seed=1)
    adapt(model, canvases, ADAPT, score, _named(progress, f"adaptation ({score})"))


def _named(progress: StageProgress | None, stage: str) -> Callable[[int, int, float], None] | None:
    if progress is None:
        return None
    return lambda done, total, loss: progress(stage, done, total, loss)
