"""The training loop that dense training, adaptation and fine-tuning share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sparsevit.data.base import Dataset, Target, batches
from sparsevit.errors import ConfigError, DatasetError
from sparsevit.tasks.base import TaskModel

Progress = Callable[[int, int, float], None]  # (steps done, steps in all, mean recent loss)
BeforeStep = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW with a linear warm-up, then a cosine to zero."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 50
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 0

    def rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train(
    model: TaskModel,
    dataset: Dataset,
    schedule: Schedule,
    before_step: BeforeStep | None = None,
    progress: Progress | None = None,
) -> None:
    """Trains `model` in place; the same seed, data and thread count give the same weights.

    The weights are new: a config measured with the old ones no longer applies to them.
    Raises ConfigError where the loss diverges, before the step that would ruin the weights.
    """
    model.weights_sha256 = None
    device = next(model.parameters()).device
    optimiser = torch.optim.AdamW(
        model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    recent = 0.0
    model.train()
    for step, (images, targets) in enumerate(_stream(dataset, schedule)):
        if before_step is not None:
            before_step(step)
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        loss = model.loss(_tensor(model, images).to(device), targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        value = loss.item()
        if not math.isfinite(value + norm.item()):
            raise ConfigError(
                f"training diverged at step {step + 1} of {schedule.steps} (loss {value}, gradient "
                f"{norm.item()}): lower the learning rate, {schedule.learning_rate:g}."
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        recent = value if step == 0 else 0.95 * recent + 0.05 * value
        if progress is not None:
            progress(step + 1, schedule.steps, recent)
    model.eval()


def _tensor(model: TaskModel, images: list[np.ndarray]) -> Tensor:
    if len({image.shape for image in images}) > 1:
        raise DatasetError(
            "the images differ in size, and a batch needs one: give a height and a width "
            "(sparsevit.data.base.Resized; --height and --width on the command line)."
        )
    return model.preprocess(images)


def _stream(
    dataset: Dataset, schedule: Schedule
) -> Iterator[tuple[list[np.ndarray], list[Target]]]:
    """`steps` batches in an order drawn from the seed, one batch read ahead of the training."""
    rng = np.random.default_rng(schedule.seed)
    needed = schedule.steps * schedule.batch
    order: list[int] = []
    while len(order) < needed:
        order.extend(rng.permutation(len(dataset)).tolist())
    source = batches(dataset, order[:needed], schedule.batch)
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(next, source, None)
        while (batch := ahead.result()) is not None:
            ahead = reader.submit(next, source, None)
            yield batch
