"""What the task layer costs: evaluation beside a plain loop around the same model.

Both preprocess the same images, run the dense model and count what is right; they take turns, and the
overhead is the median of the rounds' ratios. Of process time, with images that were read before:
threads that read ahead share caches with the computation, so process time would grow without more
work. Of wall-clock time, with reading: what a user waits for.
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


class Read:
    """A data set that was read before."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.samples = [dataset.sample(index) for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int) -> Any:
        return self.samples[index]

    def files(self, index: int) -> Any:
        return self.dataset.files(index)


class Timed:
    """A data set that adds up the thread time spent in reading it."""

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
        found = {
            "work": compare(model, Read(dataset), plain, time.process_time),
            "wall": compare(model, dataset, plain, time.perf_counter),
            "reading": reading(model, dataset),
        }
        results[name] = found
        rows.append([name, *(f"{share:.1%}" for share in found.values())])
        for key, text in (("work", "process time"), ("wall", "wall clock")):
            checks.append(Check(f"{name}: {text}", found[key], MOST_OVERHEAD, at_most=True))
    print(f"\nEvaluation of the dense model on {images} images beside a plain loop")
    head = ["task", "process time, read before", "wall clock, with reading", "share of reading"]
    print(table(head, rows))
    return results, checks


def compare(
    model: TaskModel, dataset: Dataset, plain: Callable[..., float], clock: Callable[[], float]
) -> float:
    """By what share evaluation takes longer than the plain loop, by `clock`."""
    runs = {"ours": lambda: evaluated(model, dataset), "plain": lambda: plain(model, dataset)}
    warm = Subset(dataset, range(min(EVALUATION_BATCH, len(dataset))))
    plain(model, warm), evaluated(model, warm)
    ratios = []
    for number in range(ROUNDS):
        seconds, right = {}, {}
        for name in list(runs)[:: 1 if number % 2 else -1]:
            start = clock()
            right[name] = runs[name]()
            seconds[name] = clock() - start
        if right["ours"] != right["plain"]:
            raise RuntimeError(
                f"evaluation counts {right['ours']} right, the loop {right['plain']}."
            )
        ratios.append(seconds["ours"] / seconds["plain"] - 1)
    return float(np.median(ratios))


def reading(model: TaskModel, dataset: Dataset) -> float:
    """Thread time of reading as a share of an evaluation's process time."""
    timed, start = Timed(dataset), time.process_time()
    evaluated(model, timed)
    return timed.seconds / (time.process_time() - start)


def evaluated(model: TaskModel, dataset: Dataset) -> float:
    """Hits of the dense model by the task layer."""
    genes = (0,) * sum(model.backbone.config.pairs)
    (states,) = evaluate(model, [genes], "variance", dataset, range(len(dataset)))
    return float(np.sum([_right(state) for state in states]))


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
