"""Semantic segmentation: what its models share (data, mean IoU), and one with a light pyramid head."""

from __future__ import annotations

import math
from abc import abstractmethod
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
from sparsevit.data.label_maps import IGNORED
from sparsevit.data.preprocess import Preprocess
from sparsevit.data.segmentation_folder import SegmentationFolder
from sparsevit.errors import ConfigError
from sparsevit.metrics import State
from sparsevit.metrics.mean_iou import counts
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel, check_class_names
from sparsevit.tasks.sliding import joined

MAX_CLASSES = 255  # of labels in 8 bits, one of which is ignored
MAX_HEAD_CHANNELS = 4096


class SemanticModel(TaskModel):
    """What tells a class for every pixel; targets are label maps uint8 [h, w], IGNORED left out.

    A subclass has the network and its loss, and says in `crop_scores` what its outputs mean.
    background: index of a class that the metric leaves out, or None.
    """

    task = "semantic_segmentation"
    readers: ClassVar[Mapping[str, type[Reader]]] = {
        "cityscapes": Cityscapes,
        "ade20k": ADE20K,
        "folder": SegmentationFolder,
    }

    background: int | None = None
    metric_name: str = "miou"

    @abstractmethod
    def crop_scores(self, outputs: Any, crop: int, size: Sequence[int]) -> Tensor:
        """Scores fp32 [classes, h, w] of one crop at `size` = (h, w); the highest is the prediction."""

    @property
    def metric(self) -> dict[str, Any]:
        counted = [c for c in range(len(self.class_names)) if c != self.background]
        return {"name": self.metric_name, "kind": "mean_iou", "classes": counted}

    def states(self, outputs: Any, targets: Sequence[np.ndarray]) -> list[State]:
        """Predictions are compared at the labels' resolution. Of a sliding window the crops' scores are
        averaged where they overlap; labels have their image's size then.

        ConfigError where preprocessing cuts parts of the image away: their labels would be missed.
        """
        if self.preprocess.crop_pct is not None:
            raise ConfigError(
                "preprocess.crop_pct must be null: a label map is of the whole image."
            )
        states, first = [], 0
        for label in targets:
            corners = self.preprocess.corners(*label.shape)
            scores = self._image_scores(outputs, first, corners, label.shape)
            first += len(corners)
            states.append(counts(label, scores.argmax(0).cpu().numpy(), len(self.class_names)))
        made = len(outputs if isinstance(outputs, Tensor) else outputs[0])
        if made != first:
            raise ConfigError(
                f"{made} crops were predicted, labels of these sizes need {first}: with a sliding "
                "window labels must have their image's size."
            )
        return states

    def _image_scores(
        self, outputs: Any, first: int, corners: Sequence[tuple[int, int]], size: tuple[int, int]
    ) -> Tensor:
        """Scores [classes, H, W] of the image whose crops begin at `first`."""
        if self.preprocess.slide is None or self.preprocess.resize is None:
            return self.crop_scores(outputs, first, size)
        crop = self.preprocess.resize
        return joined(
            ((at, self.crop_scores(outputs, first + i, crop)) for i, at in enumerate(corners)), size
        )

    def augment(
        self,
        image: np.ndarray,
        target: np.ndarray,
        size: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> Sample:
        return segmentation_sample(image, target, self.preprocess, size, rng)


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


class SegmentationModel(SemanticModel):
    """Backbone and pyramid head.

    class_names: one per output channel. background: index of a class that the metric leaves out and
    the loss weighs down, or None.
    """

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
        check_class_names(class_names, MAX_CLASSES)
        _check_background(background, len(class_names))
        _check_head(head_channels, background_weight, metric_name)
        dims = [backbone.config.dims[stage] for stage in backbone.out_stages]
        head = PyramidHead(dims, head_channels, len(class_names))
        super().__init__(backbone, head, preprocess or Preprocess())
        self.class_names, self.background = tuple(class_names), background
        self.background_weight, self.head_channels = background_weight, head_channels
        self.metric_name = metric_name

    def loss(self, images_BCHW: Tensor, targets: Sequence[np.ndarray]) -> Tensor:
        """Mean cross entropy over the pixels that count; zero where no pixel of the batch does."""
        weight = torch.ones(len(self.class_names), device=images_BCHW.device)
        if self.background is not None:
            weight[self.background] = self.background_weight
        return pixel_loss(self(images_BCHW), stacked(targets, images_BCHW.device), weight)

    def crop_scores(self, outputs: Tensor, crop: int, size: Sequence[int]) -> Tensor:
        return upsampled(outputs[crop : crop + 1].float(), size)[0]

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


def _check_background(background: int | None, classes: int) -> None:
    if background is not None and (type(background) is not int or not 0 <= background < classes):
        raise ConfigError(f"background is {background!r}; it is the index of a class, or None.")


def _check_head(head_channels: int, background_weight: float, metric_name: str) -> None:
    if type(head_channels) is not int or not 1 <= head_channels <= MAX_HEAD_CHANNELS:
        raise ConfigError(f"head_channels is {head_channels!r}; it is 1 to {MAX_HEAD_CHANNELS}.")
    number = type(background_weight) in (int, float) and math.isfinite(background_weight)
    if not number or background_weight < 0:
        raise ConfigError(f"background_weight is {background_weight!r}; it is a number from 0 on.")
    if not isinstance(metric_name, str) or not metric_name:
        raise ConfigError("metric_name is a name, such as miou.")


def stacked(targets: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Label maps of one size as one tensor [B, h, w]."""
    return torch.from_numpy(np.stack(targets)).to(device)


def pixel_loss(logits_BCHW: Tensor, labels_BHW: Tensor, weight_C: Tensor) -> Tensor:
    """Mean cross entropy over the pixels that count, at the labels' resolution; zero where none does.

    A class with weight 0 counts as little as IGNORED.
    """
    logits = upsampled(logits_BCHW, labels_BHW.shape[-2:]).float()
    if not weight_C[labels_BHW[labels_BHW != IGNORED].long()].any():
        return 0.0 * logits.sum()  # a mean over nothing would be NaN
    return F.cross_entropy(logits, labels_BHW.long(), weight=weight_C, ignore_index=IGNORED)


def upsampled(maps_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Maps at another resolution, bilinearly."""
    if tuple(maps_BCHW.shape[-2:]) == tuple(size):
        return maps_BCHW
    return F.interpolate(maps_BCHW, size=tuple(size), mode="bilinear", align_corners=False)
