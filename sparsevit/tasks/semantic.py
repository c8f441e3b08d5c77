"""Semantic segmentation: a light pyramid head, cross entropy, mean IoU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.data.ade20k import ADE20K
from sparsevit.data.augment import segmentation_sample
from sparsevit.data.base import Reader, Sample
from sparsevit.data.cityscapes import Cityscapes
from sparsevit.data.preprocess import Preprocess
from sparsevit.data.segmentation_folder import SegmentationFolder
from sparsevit.errors import ConfigError
from sparsevit.metrics import State
from sparsevit.metrics.mean_iou import counts
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel

IGNORED_LABEL = 255
MAX_HEAD_CHANNELS = 4096


class PyramidHead(nn.Module):
    """Projects every stage to `channels`, sums them at the finest resolution, classifies.

    The linear layers run at each stage's own resolution: the head must stay a small part of the
    latency, since sparsity cannot reduce it.
    """

    def __init__(self, dims: Sequence[int], channels: int, classes: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(dim, channels, 1) for dim in dims)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps [B, C, H, W], finest first, to logits [B, classes, H, W] of the finest."""
        total: Tensor | None = None
        for lateral, feature in zip(reversed(self.laterals), reversed(features), strict=True):
            here = lateral(feature)
            if total is not None:
                here = here + F.interpolate(total, size=here.shape[-2:], mode="nearest")
            total = here
        return self.classifier(F.gelu(total))


class SegmentationModel(TaskModel):
    """Backbone and pyramid head.

    class_names: one per output channel. background: index of a class that the metric leaves out and
    the loss weighs down, or None.
    """

    task = "semantic_segmentation"
    readers: ClassVar[Mapping[str, type[Reader]]] = {
        "cityscapes": Cityscapes,
        "ade20k": ADE20K,
        "folder": SegmentationFolder,
    }

    def __init__(
        self,
        backbone: SparseSwin,
        class_names: Sequence[str],
        *,
        preprocess: Preprocess | None = None,
        background: int | None = None,
        background_weight: float = 1.0,
        head_channels: int = 48,
        metric_name: str = "miou",
    ) -> None:
        _check_classes(class_names, background)
        _check_head(head_channels, background_weight, metric_name)
        head = PyramidHead(backbone.config.dims, head_channels, len(class_names))
        super().__init__(backbone, head, preprocess or Preprocess())
        self.class_names, self.background = tuple(class_names), background
        self.background_weight, self.head_channels = background_weight, head_channels
        self.metric_name = metric_name

    @property
    def metric(self) -> dict[str, Any]:
        counted = [c for c in range(len(self.class_names)) if c != self.background]
        return {"name": self.metric_name, "kind": "mean_iou", "classes": counted}

    def loss(self, images_BCHW: Tensor, targets: Sequence[np.ndarray]) -> Tensor:
        """Mean cross entropy over the pixels that count; zero where no pixel of the batch does."""
        labels_BHW = torch.from_numpy(np.stack(targets)).to(images_BCHW.device)
        logits = _resize(self(images_BCHW), labels_BHW.shape[-2:])
        weight = torch.ones(len(self.class_names), device=logits.device)
        if self.background is not None:
            weight[self.background] = self.background_weight
        if not weight[labels_BHW[labels_BHW != IGNORED_LABEL].long()].any():
            return 0.0 * logits.float().sum()  # a mean over nothing would be NaN
        return F.cross_entropy(
            logits.float(), labels_BHW.long(), weight=weight, ignore_index=IGNORED_LABEL
        )

    def augment(
        self,
        image: np.ndarray,
        target: np.ndarray,
        size: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> Sample:
        return segmentation_sample(image, target, self.preprocess, size, rng)

    def states(self, outputs: Tensor, targets: Sequence[np.ndarray]) -> list[State]:
        states = []
        for logits_CHW, label in zip(outputs.float(), targets, strict=True):
            predicted = _resize(logits_CHW[None], label.shape).argmax(1)[0].cpu().numpy()
            states.append(counts(label, predicted, len(self.class_names)))
        return states

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "class_names": list(self.class_names),
            "background": self.background,
            "background_weight": self.background_weight,
            "head_channels": self.head_channels,
            "metric_name": self.metric_name,
        }

    @classmethod
    def from_description(
        cls, backbone: SparseSwin, document: dict[str, Any], preprocess: Preprocess
    ) -> SegmentationModel:
        return cls(
            backbone,
            document["class_names"],
            preprocess=preprocess,
            background=document["background"],
            background_weight=document["background_weight"],
            head_channels=document["head_channels"],
            metric_name=document["metric_name"],
        )


def _check_classes(class_names: Sequence[str], background: int | None) -> None:
    named = isinstance(class_names, (list, tuple)) and all(isinstance(n, str) for n in class_names)
    if not named or not 1 <= len(class_names) <= IGNORED_LABEL:
        raise ConfigError(f"a segmentation model needs a list of 1 to {IGNORED_LABEL} class names.")
    if background is None:
        return
    if type(background) is not int or not 0 <= background < len(class_names):
        raise ConfigError(f"background is {background!r}; it is the index of a class, or None.")


def _check_head(head_channels: int, background_weight: float, metric_name: str) -> None:
    if type(head_channels) is not int or not 1 <= head_channels <= MAX_HEAD_CHANNELS:
        raise ConfigError(f"head_channels is {head_channels!r}; it is 1 to {MAX_HEAD_CHANNELS}.")
    number = type(background_weight) in (int, float) and math.isfinite(background_weight)
    if not number or background_weight < 0:
        raise ConfigError(f"background_weight is {background_weight!r}; it is a number from 0 on.")
    if not isinstance(metric_name, str) or not metric_name:
        raise ConfigError("metric_name is a name, such as miou.")


def _resize(logits_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Logits at the labels' resolution."""
    if tuple(logits_BCHW.shape[-2:]) == tuple(size):
        return logits_BCHW
    return F.interpolate(logits_BCHW, size=tuple(size), mode="bilinear", align_corners=False)
