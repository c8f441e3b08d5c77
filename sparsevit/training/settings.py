"""How a training runs: its length, rates, precision and reading. JSON in and out.

Released code: mit-han-lab/sparsevit, configs/sparsevit (Mask R-CNN on COCO): adaptation 12 epochs
with drops at 8 and 11, fine-tuning 36 epochs with drops at 27 and 33; both AdamW at 1e-5 with weight
decay .05 and 1,000 steps of warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from sparsevit.errors import ConfigError

Kind = Literal["adapt", "finetune"]
KINDS: tuple[Kind, ...] = ("adapt", "finetune")
SCHEDULES = ("cosine", "step")
TRAINING_PRECISIONS = ("fp32", "bf16", "fp16")
ADAPT_DROPS, FINETUNE_DROPS = (8 / 12, 11 / 12), (27 / 36, 33 / 36)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """AdamW with a linear warm-up and a schedule. Raises ConfigError for values that make no sense.

    epochs, steps: the length, exactly one of them. An epoch may be a fraction.
    batch: images of a forward, over all processes. accumulate: forwards of an optimiser step.
    schedule: "cosine" falls to zero; "step" falls tenfold at each share of the steps in `drops`.
    warmup: steps until the full rate, but never more than a tenth of all steps. clip: largest norm
    of the gradients, None leaves them.
    precision: of the forward (mixed: weights stay fp32); fp16 needs CUDA.
    augment: whether images are varied as the task does it, unless the data set does so itself.
    threads: of reading, None: by the machine's cores. The weights do not depend on them.
    """

    epochs: float | None = None
    steps: int | None = None
    batch: int = 4
    accumulate: int = 1
    learning_rate: float = 1e-5
    schedule: str = "cosine"
    drops: tuple[float, ...] = FINETUNE_DROPS
    warmup: int = 50
    weight_decay: float = 0.05
    clip: float | None = 1.0
    precision: str = "fp32"
    seed: int = 0
    augment: bool = True
    threads: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "drops", tuple(_list("drops", self.drops)))
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError("a training needs one of epochs and steps.")
        for name, least in (("batch", 1), ("accumulate", 1), ("warmup", 0), ("seed", 0)):
            _check_whole(name, getattr(self, name), least)
        _check_number("learning_rate", self.learning_rate)
        _check_number("weight_decay", self.weight_decay, zero=True)
        for name in ("epochs", "clip"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name))
        for name in ("steps", "threads"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), 1)
        _check_name("schedule", self.schedule, SCHEDULES)
        _check_name("precision", self.precision, TRAINING_PRECISIONS)
        if not isinstance(self.augment, bool):
            raise ConfigError(f"training: augment is {self.augment!r}; it is true or false.")
        for share in self.drops:
            _check_number("drops", share)

    @property
    def step_images(self) -> int:
        """Images of an optimiser step."""
        return self.batch * self.accumulate

    def steps_over(self, images: int) -> int:
        """Optimiser steps in all, on a data set of this many images."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * images / self.step_images))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of `steps`."""
        warm = min(1.0, (step + 1) / max(1, min(self.warmup, steps // 10)))
        if self.schedule == "cosine":
            return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        return self.learning_rate * warm * 0.1 ** sum(step >= share * steps for share in self.drops)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"drops": list(self.drops)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TrainingSettings:
        if unknown := document.keys() - {field.name for field in fields(cls)}:
            raise ConfigError(f"training has no setting {sorted(unknown)[0]!r}.")
        return cls(**document)

    def updated(self, document: Mapping[str, Any]) -> TrainingSettings:
        """These settings with the given ones in their place; None leaves one as it is. A length in
        steps replaces one in epochs, and the other way round."""
        given = {name: value for name, value in document.items() if value is not None}
        length = {"epochs": None, "steps": None} if given.keys() & {"epochs", "steps"} else {}
        return TrainingSettings.from_dict(self.to_dict() | length | given)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"training: {name} is {value!r}; it is a list of shares of the steps.")
    return list(value)


def _check_whole(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise ConfigError(f"training: {name} is {value!r}; it is a whole number from {least} on.")


def _check_number(name: str, value: Any, zero: bool = False) -> None:
    number = type(value) in (int, float) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise ConfigError(f"training: {name} is {value!r}; it is a positive number.")


def _check_name(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"training: {name} is {value!r}; it is one of {', '.join(known)}.")


_ADAPT = TrainingSettings(
    epochs=12, batch=2, accumulate=8, schedule="step", drops=ADAPT_DROPS, warmup=1000
)
_FINETUNE = replace(_ADAPT, epochs=36, drops=FINETUNE_DROPS)
_CLASSIFICATION = {"batch": 64, "accumulate": 2, "clip": 5.0}
_DETECTION_3D = {"batch": 2, "accumulate": 32, "weight_decay": 0.01, "clip": 35.0}
_RECOMMENDED: dict[tuple[str, str], TrainingSettings] = {
    ("classification", "adapt"): replace(_ADAPT, **_CLASSIFICATION),
    ("classification", "finetune"): replace(
        _FINETUNE, epochs=30, schedule="cosine", weight_decay=1e-8, **_CLASSIFICATION
    ),
    ("semantic_segmentation", "adapt"): replace(_ADAPT, clip=0.01),
    ("semantic_segmentation", "finetune"): replace(_FINETUNE, clip=0.01),
    ("instance_segmentation", "adapt"): replace(_ADAPT, clip=None),
    ("instance_segmentation", "finetune"): replace(_FINETUNE, clip=None),
    ("detection_3d", "adapt"): replace(_ADAPT, **_DETECTION_3D),
    ("detection_3d", "finetune"): replace(_FINETUNE, **_DETECTION_3D),
}


def recommended(task: str, kind: Kind) -> TrainingSettings:
    """The settings to begin with: AdamW at 1e-5, 1,000 steps of warm-up.

    task            adapt                     finetune                   source
    any other       12 epochs, drops 8, 11,   36 epochs, drops 27, 33,   the released code, as above;
                    weight decay .05, 16      weight decay .05, 16       16 images as OpenMMLab's
                    images a step             images a step              configs that it builds on
    semantic        the same, gradient        the same, gradient         the paper fine-tunes as
    segmentation    norm .01                  norm .01                   Mask2Former (Cheng et al.,
                                                                         CVPR 2022): its norm
    instance        the same, gradients as    the same, gradients as     the released code: schedules
    segmentation    they are                  they are                   of mmdet's Mask R-CNN
    classification  the same, gradient norm   30 epochs, cosine, weight  not in the paper; Swin's
                    5, 128 images a step      decay 1e-8, gradient norm  fine-tuning on ImageNet-1K
                                              5, 128 images a step       (2e-5 for 512 images)
    detection_3d    the same, weight decay    the same, weight decay     the paper fine-tunes BEVDet:
                    .01, gradient norm 35,    .01, gradient norm 35,     its decay and samples a step;
                    64 samples a step         64 samples a step          CenterPoint's norm in mmdet3d
    """
    if kind not in KINDS:
        raise ConfigError(f"a training is one of {', '.join(KINDS)}, not {kind!r}.")
    return _RECOMMENDED.get((task, kind), _ADAPT if kind == "adapt" else _FINETUNE)
