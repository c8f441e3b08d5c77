"""What the task layer costs: evaluation beside a plain loop around the same model.

Both read the same images, preprocess them, run the dense model and count what is right; they take
turns, and the overhead is the median of the rounds' ratios of process time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.common import Check, table
from sparsevit.data.base import Dataset, Subset
from sparsevit.data.digits import CLASSES, DigitCanvases
from sparsevit.evaluate import EVALUATION_BATCH, evaluate
from sparsevit.latency.allocator import keep_memory
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.classification import ClassificationModel
from sparsevit.tasks.files import load_model

ROUNDS = 7
MOST_OVERHEAD = 0.05
SIZE = 224
LABELS = tuple(map(str, range(100)))


class Pictures:
    """Canvases as a classification set: each has a label of its own."""

    def __init__(self, images: int) -> None:
        self.canvases = DigitCanvases("search", images, SIZE)

    def __len__(self) -> int:
        return len(self.canvases)

    def sample(self, index: int) -> tuple[np.ndarray, int]:
        return self.canvases.sample(index)[0], index % len(LABELS)

    def files(self, index: int) -> tuple[()]:
        return ()


class Timed:
    """A data set that adds up the time spent in reading it."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.seconds = dataset, 0.0

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int) -> Any:
        start = time.thread_time()
        found = self.dataset.sample(index)
        self.seconds += time.thread_time() - start
        return found

    def files(self, index: int) -> Any:
        return self.dataset.files(index)


def overhead(images: int) -> tuple[dict[str, Any], list[Check]]:
    # One thread computes: a second one burns process time while it waits for the first.
    torch.set_num_threads(1)
    keep_memory()
    torch.manual_seed(0)
    backbone = SparseSwin(SwinConfig(depths=(2, 2, 2, 2)), out_stages=(3,))
    cases: dict[str, tuple[TaskModel, Dataset, Callable[..., float]]] = {
        "semantic segmentation (digits, 448 px)": (
            load_model("builtin:digits"),
            DigitCanvases("search", images),
            plain_segmentation,
        ),
        f"classification (Swin of depths 2 2 2 2, {SIZE} px)": (
            ClassificationModel(backbone, LABELS).eval(),
            Pictures(images),
            plain_classification,
        ),
    }
    results, checks, rows = {}, [], []
    for name, (model, dataset, plain) in cases.items():
        found = compare(model, dataset, plain)
        results[name] = found
        rows.append([name, *(f"{found[key]:.1%}" for key in ("overhead", "wall", "reading"))])
        checks.append(Check(f"{name}: overhead", found["overhead"], MOST_OVERHEAD, at_most=True))
    print(f"\nEvaluation of the dense model on {images} images beside a plain loop")
    print(table(["task", "overhead, process time", "overhead, wall clock", "reading images"], rows))
    return results, checks


def compare(model: TaskModel, dataset: Dataset, plain: Callable[..., float]) -> dict[str, float]:
    genes = (0,) * sum(model.backbone.config.pairs)
    timed = Timed(dataset)

    def ours() -> float:
        (states,) = evaluate(model, [genes], "variance", timed, range(len(dataset)))
        return float(np.sum([_right(state) for state in states]))

    warm = Subset(dataset, range(min(EVALUATION_BATCH, len(dataset))))
    plain(model, warm), ours()
    timed.seconds, ratios, walls, shares = 0.0, [], [], []
    for number in range(ROUNDS):
        turns = [("ours", ours), ("plain", lambda: plain(model, dataset))]
        cpu, wall, right = {}, {}, {}
        timed.seconds = 0.0
        for name, run in turns[:: 1 if number % 2 else -1]:
            begin, start = time.process_time(), time.perf_counter()
            right[name] = run()
            cpu[name], wall[name] = time.process_time() - begin, time.perf_counter() - start
        if right["ours"] != right["plain"]:
            raise RuntimeError(
                f"evaluation counts {right['ours']} right, the loop {right['plain']}."
            )
        ratios.append(cpu["ours"] / cpu["plain"] - 1)
        walls.append(wall["ours"] / wall["plain"] - 1)
        shares.append(timed.seconds / cpu["ours"])
    return {
        "overhead": float(np.median(ratios)),
        "wall": float(np.median(walls)),
        "reading": float(np.median(shares)),
    }


def _right(state: list[Any]) -> int:
    """Hits of a state of either kind: pixels by class, or [top 1, top 5, images]."""
    return sum(state[0]) if isinstance(state[0], list) else state[0]


@torch.inference_mode()
def plain_segmentation(model: TaskModel, dataset: Dataset) -> float:
    classes = len(CLASSES)
    cells = np.zeros(classes * classes, np.int64)
    for x, labels in _batches(model, dataset):
        predicted = model(x).argmax(1).numpy()
        for label, prediction in zip(labels, predicted, strict=True):
            cells += np.bincount((classes * label + prediction).ravel(), minlength=classes**2)
    return float(np.trace(cells.reshape(classes, classes)))


@torch.inference_mode()
def plain_classification(model: TaskModel, dataset: Dataset) -> float:
    return float(
        sum(
            int((model(x).argmax(1) == torch.tensor(labels)).sum())
            for x, labels in _batches(model, dataset)
        )
    )


def _batches(model: TaskModel, dataset: Dataset) -> Any:
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (model.preprocess.mean, model.preprocess.std)
    )
    for start in range(0, len(dataset), EVALUATION_BATCH):
        samples = [
            dataset.sample(i) for i in range(start, min(start + EVALUATION_BATCH, len(dataset)))
        ]
        images = [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image, _ in samples]
        yield (torch.stack(images) - mean) / std, [label for _, label in samples]
