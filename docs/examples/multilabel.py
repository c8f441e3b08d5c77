"""A task of its own in one file: several labels an image, data in a table, F1 as the metric."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.data.base import Progress, Reader, for_each
from sparsevit.data.images import image_size, read_image
from sparsevit.data.preprocess import Preprocess
from sparsevit.errors import DatasetError
from sparsevit.metrics import State
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel


@dataclass(frozen=True)
class LabelTable:
    """`SPLIT/labels.csv` with lines NAME,LABEL LABEL ... and the images beside it.

    A target is uint8 [classes], 1 where a label applies.
    """

    layout: ClassVar[str] = "SPLIT/labels.csv with lines NAME,LABEL LABEL ... and SPLIT/NAME"

    root: Path
    split: str
    class_names: Sequence[str]

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return any(root.glob("*/labels.csv"))

    @cached_property
    def rows(self) -> list[tuple[Path, np.ndarray]]:
        table = self.root / self.split / "labels.csv"
        if self.split != Path(self.split).name or not table.is_file():
            raise DatasetError(f"there is no {table}; expected {self.layout}.")
        with open(table, newline="", encoding="utf-8") as file:
            rows = [(table.parent / name, labels.split()) for name, labels in csv.reader(file)]
        unknown = {label for _, labels in rows for label in labels} - set(self.class_names)
        if unknown or not rows:
            raise DatasetError(
                f"{table} has no rows, or labels the model lacks: {sorted(unknown)}."
            )
        return [(path, np.isin(self.class_names, labels).astype(np.uint8)) for path, labels in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def files(self, index: int) -> tuple[Path, ...]:
        return (self.rows[index][0],)

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        path, target = self.rows[index]
        return read_image(path), target

    def check(self, progress: Progress | None = None, indices: Sequence[int] | None = None) -> None:
        chosen = range(len(self)) if indices is None else indices
        for_each(lambda index: image_size(self.rows[index][0]), chosen, progress)


class F1:
    """Kind of metric: F1 of all labels together. A state is [right, wrongly found, missed]."""

    def merge(self, states: Sequence[State]) -> State:
        return np.sum(np.asarray(states, dtype=np.int64), axis=0).tolist()

    def value(self, state: State, spec: Mapping[str, Any]) -> float:
        right, wrong, missed = state
        return 2 * right / (2 * right + wrong + missed) if right else 0.0

    def interval(self, states: Sequence[State], spec: Mapping[str, Any]) -> tuple[float, float]:
        """By the delete-one jackknife over the given states."""
        if len(states) < 2:
            return (0.0, 1.0)
        total = np.asarray(self.merge(states))
        parts = np.array([self.value((total - np.asarray(s)).tolist(), spec) for s in states])
        error = 1.96 * float(np.sqrt((len(states) - 1) * parts.var()))
        value = self.value(total.tolist(), spec)
        return (max(0.0, value - error), min(1.0, value + error))

    def details(self, state: State, spec: Mapping[str, Any]) -> dict[str, float]:
        right, wrong, missed = state
        return {
            "precision": right / (right + wrong) if right else 0.0,
            "recall": right / (right + missed) if right else 0.0,
        }


class PooledHead(nn.Module):
    """The backbone's feature maps, a list of [B, C, h, w], to one logit a label [B, classes]."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.linear(features[-1].amax((-2, -1)))


class MultiLabelModel(TaskModel):
    """The labels whose logit is positive apply."""

    task = "multi_label"
    readers: ClassVar[Mapping[str, type[Reader]]] = {"table": LabelTable}

    def __init__(
        self,
        backbone: SparseSwin,
        class_names: Sequence[str],
        *,
        preprocess: Preprocess | None = None,
    ) -> None:
        head = PooledHead(backbone.config.dims[-1], len(class_names))
        super().__init__(backbone, head, preprocess or Preprocess())
        self.class_names = tuple(class_names)

    @property
    def metric(self) -> dict[str, Any]:
        return {"name": "f1", "kind": "f1"}

    def loss(self, images_BCHW: Tensor, targets: Sequence[np.ndarray]) -> Tensor:
        truth = torch.from_numpy(np.stack(targets)).to(images_BCHW.device).float()
        return F.binary_cross_entropy_with_logits(self(images_BCHW).float(), truth)

    def states(self, outputs: Tensor, targets: Sequence[np.ndarray]) -> list[State]:
        found = (outputs.float() > 0).cpu().numpy()
        return [
            [int((row & truth).sum()), int((row & ~truth).sum()), int((~row & truth).sum())]
            for row, truth in zip(found, np.stack(targets).astype(bool), strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        return {"task": self.task, "class_names": list(self.class_names)}

    @classmethod
    def from_description(
        cls, backbone: SparseSwin, document: dict[str, Any], preprocess: Preprocess
    ) -> MultiLabelModel:
        return cls(backbone, document["class_names"], preprocess=preprocess)
