"""Classification: the mean of the last feature map, a linear layer, cross entropy, top-1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.data.augment import classification_sample
from sparsevit.data.base import Reader, Sample
from sparsevit.data.image_folder import ImageFolder
from sparsevit.data.preprocess import Preprocess
from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.metrics import State
from sparsevit.metrics.accuracy import hits
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel, check_class_names
from sparsevit.tasks.foreign import ForeignCheckpoint, ForeignHead
from sparsevit.tasks.huggingface import label_names

MAX_CLASSES = 100_000
# timm from 0.9 on and OpenMMLab; the original code, older timm and torchvision; transformers.
HEADS = ("head.fc.", "head.", "classifier.")
# What classifiers are evaluated with on ImageNet, in the original code: 256 pixels, the middle 224.
IMAGENET = Preprocess(interpolation="bicubic", crop_pct=0.875)


class LinearHead(nn.Module):
    """Feature maps [B, C, h, w], of which the last counts, to logits [B, classes]."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.fc(features[-1].mean((-2, -1)))


class ClassificationModel(TaskModel):
    """Backbone and linear head; targets are class indices.

    backbone: only its last stage's output is used: SparseSwin(config, out_stages=(last,)) has no
    norms to spare. label_smoothing: of the loss, 0 to below 1.
    """

    task = "classification"
    readers: ClassVar[Mapping[str, type[Reader]]] = {"imagefolder": ImageFolder}

    def __init__(
        self,
        backbone: SparseSwin,
        class_names: Sequence[str],
        *,
        preprocess: Preprocess | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        check_class_names(class_names, MAX_CLASSES)
        _check_smoothing(label_smoothing)
        if backbone.out_stages[-1] != len(backbone.config.depths) - 1:
            raise ConfigError("a classifier needs the output of the backbone's last stage.")
        head = LinearHead(backbone.config.dims[-1], len(class_names))
        super().__init__(backbone, head, preprocess or IMAGENET)
        self.class_names, self.label_smoothing = tuple(class_names), label_smoothing

    @property
    def metric(self) -> dict[str, Any]:
        return {"name": "top1", "kind": "accuracy", "top": 1}

    def loss(self, images_BCHW: Tensor, targets: Sequence[int]) -> Tensor:
        """Cross entropy, mean over the images."""
        classes = torch.tensor(targets, device=images_BCHW.device)
        logits = self(images_BCHW).float()
        return F.cross_entropy(logits, classes, label_smoothing=self.label_smoothing)

    def augment(
        self,
        image: np.ndarray,
        target: int,
        size: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> Sample:
        return classification_sample(image, self.preprocess, size, rng), target

    def states(self, outputs: Tensor, targets: Sequence[int]) -> list[State]:
        """One crop an image. ConfigError where preprocessing slides a window."""
        if self.preprocess.slide is not None:
            raise ConfigError("preprocess.slide must be null: a classifier sees an image at once.")
        scores = outputs.float().cpu().numpy()
        return [hits(target, row) for row, target in zip(scores, targets, strict=True)]

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "class_names": list(self.class_names),
            "label_smoothing": self.label_smoothing,
        }

    @classmethod
    def from_description(
        cls, backbone: SparseSwin, document: dict[str, Any], preprocess: Preprocess
    ) -> ClassificationModel:
        return cls(
            backbone,
            document["class_names"],
            preprocess=preprocess,
            label_smoothing=document["label_smoothing"],
        )

    @classmethod
    def head_in(cls, checkpoint: ForeignCheckpoint) -> ForeignHead | None:
        """A linear layer that is named as classifiers' are, beside the backbone or further out."""
        places = [around + head for around in checkpoint.around for head in HEADS]
        place = next((p for p in places if f"{p}weight" in checkpoint.tensors), None)
        if place is None or checkpoint.tensors[f"{place}weight"].ndim != 2:
            return None
        classes, width = checkpoint.tensors[f"{place}weight"].shape
        if width != checkpoint.width:
            raise CheckpointMismatch(
                f"{checkpoint.name}: {place}weight takes {width} channels, the last stage has "
                f"{checkpoint.width}."
            )
        names = label_names(checkpoint.config, classes, checkpoint.name)
        return ForeignHead(
            description={"task": cls.task, "class_names": names, "label_smoothing": 0.0},
            names={"head.fc.": place},
            out_stages=(len(checkpoint.backbone.depths) - 1,),
            preprocess=IMAGENET,
        )


def _check_smoothing(value: float) -> None:
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise ConfigError(f"label_smoothing is {value!r}; it is a number from 0 to below 1.")
