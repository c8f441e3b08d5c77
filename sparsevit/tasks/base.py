"""What a task model is: a sparse backbone, a head, and what is needed to score it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor, nn

from sparsevit.data.augment import resized
from sparsevit.data.base import Reader, Sample, Target
from sparsevit.data.preprocess import Preprocess
from sparsevit.deploy import DeployConfig
from sparsevit.errors import ConfigError
from sparsevit.metrics import State
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.checkpoints.report import LoadReport
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.foreign import ForeignCheckpoint, ForeignHead, Origin

OWN_DIALECT = "sparsevit"


class TaskModel(nn.Module, ABC):
    """A SparseSwin backbone with the head of one task: one subclass, in one file, is one task.

    forward(images [B, 3, H, W], preprocessed) -> the head's outputs, whatever they are. The head takes
    the backbone's feature maps, a list of [B, C, h, w]. Dense until `set_sparsity`.
    task: its name in requests and files. readers: format name -> reader of data sets on disk; where
    a request names no format the first that recognises the folder reads it.
    views: images of one sample, such as those of a car's cameras: a batch counts samples, and its
    tensor has that many rows for each.
    recordable: whether a forward has the same shapes whatever it sees, as a CUDA graph needs it.
    class_names: what the model tells apart, in the order of its outputs.
    weights_sha256: hash of the file the weights came from; None for weights made in memory.
    adapted: whether the weights went through sparsity-aware adaptation, and with which score.
    origin: how another library's checkpoint, from which the weights came, names and lays them out;
    `save_model` writes them so again. None: in the format of this library. load_report: what was
    loaded from the file, and what was left there.
    """

    task: ClassVar[str]
    readers: ClassVar[Mapping[str, type[Reader]]]
    views: ClassVar[int] = 1
    recordable: ClassVar[bool] = True
    class_names: Sequence[str]

    def __init__(self, backbone: SparseSwin, head: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.backbone, self.head, self.preprocess = backbone, head, preprocess
        self.weights_sha256: str | None = None
        self.adapted: str | None = None
        self.origin: Origin | None = None
        self.load_report: LoadReport | None = None

    def forward(self, images_BCHW: Tensor) -> Any:
        return self.head(self.backbone(images_BCHW))

    def set_sparsity(self, config: SparsityConfig | DeployConfig) -> None:
        """Applies ratios and score: the backbone skips windows from here on.

        A deployed config brings its preprocessing along (`preprocess`, with the resize it was
        measured at) and states which weights it was measured with; other weights raise
        ConfigError, since neither its metric nor its window ranking would hold.
        """
        if isinstance(config, DeployConfig):
            config.check_weights(self.weights_sha256)
            self.preprocess = self.preprocess.updated(config.document.get("preprocess"))
            config = config.sparsity
        self.backbone.set_sparsity(config)

    @property
    def dialect(self) -> str:
        """Whose names `save_model` gives the weights; `sparsevit` are this library's own."""
        return OWN_DIALECT if self.origin is None else self.origin.dialect

    @property
    def executed_windows(self) -> tuple[tuple[int, ...], ...]:
        """Windows per image that each block computed in the last forward, [stage][block]."""
        if self.backbone.executed_windows is None:
            raise ConfigError("the model has not run yet: call it once before executed_windows.")
        return self.backbone.executed_windows

    def attend(self, images_BCHW: Tensor, targets: Sequence[Target]) -> None:
        """Told before a forward, other than in `loss`, what the data know of these preprocessed images
        beside their pixels: where the cameras are. A single target stands for all images. Most
        heads see pixels alone, and need no more.
        """

    @property
    @abstractmethod
    def metric(self) -> dict[str, Any]:
        """How states become one number; see sparsevit.metrics."""

    @abstractmethod
    def loss(self, images_BCHW: Tensor, targets: Sequence[Target]) -> Tensor:
        """Training loss of a batch; targets as the data set gives them, one an image."""

    def augment(
        self,
        image: np.ndarray,
        target: Target,
        size: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> Sample:
        """A training sample of this size, (height, width), uint8: varied at random as models of this
        task are trained; rng None: only resized. A task that varies nothing need not override it.
        """
        return resized(image, target, size, self.preprocess.interpolation)

    @abstractmethod
    def states(self, outputs: Any, targets: Sequence[Target]) -> list[State]:
        """One metric state per image. outputs: of as many crops as `preprocess` made of the images."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The head's part of a checkpoint's metadata, JSON; `from_description` rebuilds it."""

    @classmethod
    @abstractmethod
    def from_description(
        cls, backbone: SparseSwin, document: dict[str, Any], preprocess: Preprocess
    ) -> Self:
        """The model that `describe` described, with fresh weights.

        Raises ConfigError, or what a wrong document makes Python raise, for one that makes no sense.
        """

    @classmethod
    def head_in(cls, checkpoint: ForeignCheckpoint) -> ForeignHead | None:
        """Where this model's head lies in another library's checkpoint; None where it does not.

        A task that no other library trains need not override it. Raises CheckpointMismatch for what is
        meant to be such a head, and cannot be read.
        """
        return None


def check_class_names(class_names: Sequence[str], most: int) -> None:
    """ConfigError unless they are a list of names, no more than `most`."""
    named = isinstance(class_names, (list, tuple)) and all(isinstance(n, str) for n in class_names)
    if not named or not 1 <= len(class_names) <= most:
        raise ConfigError(f"this model needs a list of 1 to {most} class names.")
