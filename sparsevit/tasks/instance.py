"""Instance segmentation: what its models share: COCO's data, its AP, how training images vary."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparsevit.data.augment import resized_part
from sparsevit.data.base import Reader
from sparsevit.data.coco import Coco
from sparsevit.data.instances import Instances
from sparsevit.errors import ConfigError
from sparsevit.metrics import State
from sparsevit.metrics.coco_matching import Detections, image_state
from sparsevit.tasks.base import TaskModel

MAX_CLASSES = 10_000
SMALLEST_PART = 0.64  # of a side of the image; OpenMMLab's recipe: 384 pixels of a side of 600


class InstanceModel(TaskModel):
    """What finds the objects of an image; targets are `Instances`, crowds among them.

    Images are brought to the input's size whatever their shape, as in the paper's code for COCO
    (672 x 672, keep_ratio=False): every input is filled, and no token is padding. AP is of the original
    images' pixels.
    A subclass has the network and its loss, and says in `detections` what its outputs mean.
    """

    task = "instance_segmentation"
    readers: ClassVar[Mapping[str, type[Reader]]] = {"coco": Coco}

    @abstractmethod
    def detections(
        self, outputs: Any, index: int, size: tuple[int, int], given: tuple[int, int]
    ) -> Detections:
        """What was found in one image of the batch, in the pixels of the image.

        size, given: (height, width) of the image, and of the input that it was brought to.
        """

    @property
    def metric(self) -> dict[str, Any]:
        return {"name": "mask_ap", "kind": "coco_ap", "of": "mask"}

    def states(self, outputs: Any, targets: Sequence[Instances]) -> list[State]:
        """ConfigError where preprocessing cuts images."""
        if self.preprocess.slide is not None or self.preprocess.crop_pct is not None:
            raise ConfigError(
                "preprocess.slide and preprocess.crop_pct must be null: objects are of a whole image."
            )
        return [
            image_state(
                target,
                self.detections(outputs, index, target.size, self.preprocess.resize or target.size),
            )
            for index, target in enumerate(targets)
        ]

    def augment(
        self,
        image: np.ndarray,
        target: Instances,
        size: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> tuple[np.ndarray, Instances]:
        """A part of the image in half of all cases, mirrored in half, brought to `size`."""
        height, width = image.shape[:2]
        box = (0.0, 0.0, float(width), float(height))
        if rng is not None and rng.random() < 0.5:
            sides = rng.uniform(SMALLEST_PART, 1.0, 2) * (width, height)
            left, top = rng.random(2) * ((width, height) - sides)
            box = (left, top, left + sides[0], top + sides[1])
        image = resized_part(image, box, size, self.preprocess.interpolation)
        target = target.cut(box, size)
        if rng is None or rng.random() < 0.5:
            return image, target
        return np.ascontiguousarray(image[:, ::-1]), target.mirrored()


def learned(target: Instances) -> Instances:
    """The objects that a loss is about: no crowds, none smaller than a pixel."""
    return target.chosen(~target.crowd & (target.boxes[:, 2:] >= 1).all(1))
