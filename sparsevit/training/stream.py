"""What a training reads, step by step: a function of seed and step, whatever was read before.

The images of an epoch come in an order drawn from the seed. A sample stands for an image in an
epoch, one number: epoch * images + index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from sparsevit.data.base import Dataset, Target
from sparsevit.data.loading import read_ahead
from sparsevit.data.preprocess import stack_images
from sparsevit.training.distributed import Processes
from sparsevit.training.settings import TrainingSettings

if TYPE_CHECKING:
    from sparsevit.tasks.base import TaskModel

AUGMENTATION = 2  # second number of the seed; the others are in plan.py and engine.py


class TrainingSamples:
    """A data set as a task model trains on it: augmented, at one size, normalised.

    size: (height, width); None: that of the model's preprocessing, or the images' own. Resizing is
    part of the augmentation here, so that labels take part in it; of the model's preprocessing only
    the normalisation is left.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: TaskModel,
        settings: TrainingSettings,
        size: tuple[int, int] | None,
    ) -> None:
        self.dataset, self.model = dataset, model
        self.seed, self.size = settings.seed, size or model.preprocess.resize
        self.chance = settings.augment and not getattr(dataset, "augmented", False)
        self.normalise = replace(model.preprocess, resize=None, crop_pct=None, slide=None)

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, number: int) -> tuple[Tensor, Target]:
        """Normalised views of an image, fp32 [V, 3, H, W], and target, of an image in an epoch."""
        epoch, index = divmod(number, len(self.dataset))
        image, target = self.dataset.sample(index)
        if self.chance:
            rng = np.random.default_rng([self.seed, AUGMENTATION, epoch, index])
            image, target = self.model.augment(image, target, self.size or image.shape[-3:-1], rng)
        elif self.size is not None:
            image, target = self.model.augment(image, target, self.size, None)
        return self.normalise([image]), target


@dataclass(frozen=True)
class SampleNumbers:
    """The samples that one process reads in the steps first to last - 1, in order: of the batch of
    every forward its share, in one piece."""

    images: int
    settings: TrainingSettings
    first: int
    last: int
    mine: Processes

    def __len__(self) -> int:
        return (self.last - self.first) * self.settings.step_images // self.mine.count

    def __iter__(self) -> Iterator[int]:
        start, batch = self.first * self.settings.step_images, self.settings.batch
        share = batch // self.mine.count
        wanted = islice(self._endless(start), (self.last - self.first) * self.settings.step_images)
        for place, number in enumerate(wanted):
            if place % batch // share == self.mine.rank:
                yield number

    def _endless(self, start: int) -> Iterator[int]:
        """Epoch after epoch, from the `start`-th sample on."""
        rng = np.random.default_rng(self.settings.seed)
        epoch, place = divmod(start, self.images)
        for _ in range(epoch):
            rng.permutation(self.images)
        while True:
            for index in rng.permutation(self.images)[place:].tolist():
                yield epoch * self.images + index
            epoch, place = epoch + 1, 0


def training_batches(
    samples: TrainingSamples, settings: TrainingSettings, first: int, last: int, mine: Processes
) -> Iterator[tuple[Tensor, list[Target]]]:
    """The forwards (images [B, 3, H, W], targets) of this process in the steps first to last - 1."""
    numbers = SampleNumbers(len(samples), settings, first, last, mine)
    share = settings.batch // mine.count
    for images, targets in read_ahead(samples, numbers, share, threads=settings.threads):
        yield stack_images([view for image in images for view in image]), targets
