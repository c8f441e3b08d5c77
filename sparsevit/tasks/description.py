"""What the metadata of a file say of the task model in it, and the model built from that."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsevit.data.preprocess import Preprocess
from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.registry import task_class

PARTS = ("architecture", "out_stages", "head", "preprocess", "adapted")
OPTIONAL = ("out_stages",)  # files of before had all
WRONG = (ConfigError, LookupError, ValueError, TypeError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class Description:
    """All of a task model but its weights.

    out_stages: of the backbone, None = all. head: as TaskModel.describe.
    """

    architecture: SwinConfig
    out_stages: tuple[int, ...] | None
    head: dict[str, Any]
    preprocess: Preprocess
    adapted: str | None

    @classmethod
    def of(cls, model: TaskModel) -> Description:
        swin = model.backbone
        return cls(swin.config, swin.out_stages, model.describe(), model.preprocess, model.adapted)

    @classmethod
    def parsed(cls, metadata: Mapping[str, str], name: str) -> Description:
        """Out of a file's metadata. CheckpointMismatch where they make no sense."""
        try:
            parts = {
                key: json.loads(metadata[key] if key not in OPTIONAL else metadata.get(key, "null"))
                for key in PARTS
            }
            stages = parts["out_stages"]
            return cls(
                SwinConfig.from_dict(parts["architecture"]),
                None if stages is None else tuple(stages),
                dict(parts["head"]),
                _preprocess(parts["preprocess"]),
                _adapted(parts["adapted"]),
            )
        except WRONG as error:
            raise _no_model(name, error) from error

    def metadata(self) -> dict[str, str]:
        """As `parsed` reads them."""
        stages = None if self.out_stages is None else list(self.out_stages)
        parts = (self.architecture.to_dict(), stages, self.head, self.preprocess.to_dict())
        return {k: json.dumps(v) for k, v in zip(PARTS, (*parts, self.adapted), strict=True)}

    def build(self, name: str) -> TaskModel:
        """The model with fresh weights. CheckpointMismatch where there can be no such model."""
        if self.architecture.in_channels != 3:
            raise CheckpointMismatch(
                f"{name} takes images of {self.architecture.in_channels} channels; a task model takes "
                "RGB images."
            )
        try:
            # A head whose task has several models names its own.
            task = task_class(self.head.get("model", self.head["task"]))
            backbone = SparseSwin(self.architecture, self.out_stages)
            model = task.from_description(backbone, self.head, self.preprocess)
        except WRONG as error:
            raise _no_model(name, error) from error
        model.adapted = self.adapted
        return model


def _no_model(name: str, error: Exception) -> CheckpointMismatch:
    return CheckpointMismatch(f"what {name} says of its model describes none: {error}")


def _adapted(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError("`adapted` is no score's name.")
    return value


def _preprocess(document: Any) -> Preprocess:
    """ValueError or TypeError where a file gives numbers that no image can be prepared with."""
    if not isinstance(document, dict | None):
        raise TypeError("preprocess is no object.")
    return checked_preprocess(Preprocess().updated(document))


def checked_preprocess(preprocess: Preprocess) -> Preprocess:
    """The same; ValueError where it holds numbers that no image can be prepared with."""
    if not all(math.isfinite(value) for value in (*preprocess.mean, *preprocess.std)):
        raise ValueError("preprocess holds NaN or infinite numbers.")
    size = preprocess.resize
    if size is not None and (len(size) != 2 or not all(type(n) is int and n > 0 for n in size)):
        raise ValueError(f"preprocess.resize is {size}; it is [height, width].")
    return preprocess
