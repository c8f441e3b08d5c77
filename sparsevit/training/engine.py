"""The training loop that dense training, adaptation and fine-tuning share.

Everything drawn is a function of the seed, the step and the place in it, so a training that stopped
after any step goes on from its state alone, to the same weights on the same machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsevit.data.base import Dataset, Target
from sparsevit.errors import ConfigError
from sparsevit.tasks.base import TaskModel
from sparsevit.training.distributed import processes
from sparsevit.training.plan import ConfigPlan
from sparsevit.training.settings import TrainingSettings
from sparsevit.training.stream import TrainingSamples, training_batches

Progress = Callable[[int, int, float], None]  # (steps done, steps in all, mean recent loss)

CHANCE = 3  # second number of the seed: what the model draws itself, such as dropout
SMALLEST_SCALE = 1.0  # of fp16's loss: gradients that overflow even then are no matter of scale
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A training of a model, in place: `run` it to the end or for a while.

    plan: the config of every step; None leaves the model's own. size: (height, width) of training
    images; None: that of the model's preprocessing, or their own.
    step: optimiser steps done, of `steps`. loss: recent mean.
    """

    def __init__(
        self,
        model: TaskModel,
        dataset: Dataset,
        settings: TrainingSettings,
        plan: ConfigPlan | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.model, self.settings, self.plan = model, settings, plan
        self.device = next(model.parameters()).device
        self.processes = processes()
        self._check()
        self.samples = TrainingSamples(dataset, model, settings, size)
        self.step, self.steps, self.loss = 0, settings.steps_over(len(dataset)), 0.0
        self.optimiser = torch.optim.AdamW(
            model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=settings.precision == "fp16", init_scale=2.0**16
        )

    @property
    def done(self) -> bool:
        return self.step == self.steps

    def run(
        self,
        seconds: float | None = None,
        until: int | None = None,
        progress: Progress | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> None:
        """Trains to the end, or until `seconds` are over (one step at least), or up to a step, or
        until `enough`, which is asked after every step.

        The weights are new: a config measured with the old ones no longer applies to them.
        Raises ConfigError where the loss diverges, before the step that would ruin the weights.
        """
        begin, last = time.monotonic(), min(self.steps, until or self.steps)
        if self.step < last:
            self.model.weights_sha256 = None
            self.model.train()
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                self._steps(last, progress, lambda: self._over(begin, seconds, enough))
        if self.done and self.plan is not None:
            self.model.set_sparsity(self.plan.final)
            self.model.adapted = self.plan.adapted or self.model.adapted
        self.model.eval()

    def state(self) -> dict[str, Any]:
        """All that `restore` needs. No state of generators: what is drawn follows from the step."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "loss": self.loss,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.model.weights_sha256 = None
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.loss = state["step"], state["loss"]

    def _steps(self, last: int, progress: Progress | None, over: Callable[[], bool]) -> None:
        batches = training_batches(self.samples, self.settings, self.step, last, self.processes)
        loss_of = self._loss_module()
        try:
            while self.step < last:
                value = self._step(batches, loss_of)
                self.loss = value if self.step == 0 else 0.95 * self.loss + 0.05 * value
                self.step += 1
                if progress is not None:
                    progress(self.step, self.steps, self.loss)
                if over():
                    return
        finally:
            batches.close()

    def _step(self, batches: Iterator[tuple[Tensor, list[Target]]], loss_of: nn.Module) -> float:
        """One optimiser step; its loss."""
        if self.plan is not None:
            self.model.set_sparsity(self.plan.config(self.step))
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(self.step, self.steps)
        loss = 0.0
        for forward in range(self.settings.accumulate):
            images, targets = next(batches)
            with self._apart(loss_of, forward):
                loss += self._backward(loss_of, forward, images.to(self.device), targets)
        loss = self.processes.mean(loss)
        self._update(loss)
        return loss

    def _backward(
        self, loss_of: nn.Module, forward: int, images_BCHW: Tensor, targets: list[Target]
    ) -> float:
        """Adds a forward's part to the gradients; its part of the loss."""
        torch.manual_seed(self._seed(forward))
        dtype = AUTOCAST.get(self.settings.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            loss = loss_of(images_BCHW, targets) / self.settings.accumulate
        self.scaler.scale(loss).backward()
        return loss.item()

    def _update(self, loss: float) -> None:
        """Clips the gradients and takes the step that they point to, if they can be believed."""
        self.scaler.unscale_(self.optimiser)
        clip = self.settings.clip
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), math.inf if clip is None else clip
        ).item()
        # In fp16 a gradient overflows now and then: the scaler leaves that step out and scales down.
        scaled = self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE
        if not math.isfinite(loss) or not (scaled or math.isfinite(norm)):
            raise ConfigError(
                f"training diverged at step {self.step + 1} of {self.steps} (loss {loss}, gradient "
                f"{norm}): lower the learning rate, {self.settings.learning_rate:g}."
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)

    def _seed(self, forward: int) -> int:
        """For what the model draws in one forward of one process."""
        place = forward * self.processes.count + self.processes.rank
        words = np.random.SeedSequence([self.settings.seed, CHANCE, self.step, place])
        return int(words.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _loss_module(self) -> nn.Module:
        loss_of = _Loss(self.model)
        if self.processes.count == 1:
            return loss_of
        # Heads may have parameters that their loss does not reach.
        return DistributedDataParallel(loss_of, find_unused_parameters=True)

    def _apart(self, loss_of: nn.Module, forward: int) -> AbstractContextManager[Any]:
        """Gradients are averaged over the processes once a step, in its last forward."""
        if self.processes.count == 1 or forward == self.settings.accumulate - 1:
            return nullcontext()
        return loss_of.no_sync()

    def _over(self, begin: float, seconds: float | None, enough: Callable[[], bool] | None) -> bool:
        if seconds is None and enough is None:
            return False
        late = seconds is not None and time.monotonic() - begin >= seconds
        return self.processes.agree(late or (enough is not None and enough()))

    def _check(self) -> None:
        check_precision(self.settings.precision, self.device)
        if self.settings.batch % self.processes.count:
            raise ConfigError(
                f"a batch of {self.settings.batch} images cannot be shared by "
                f"{self.processes.count} processes: choose a multiple of it."
            )


def check_precision(precision: str, device: torch.device) -> None:
    """Raises ConfigError where the device cannot train in it."""
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError("training in fp16 needs a CUDA device: use bf16 or fp32 on a CPU.")


class _Loss(nn.Module):
    """The task's loss as a module's forward: processes average the gradients of a forward only."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor, targets: list[Target]) -> Tensor:
        return self.model.loss(images_BCHW, targets)
