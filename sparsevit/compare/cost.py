"""What a training step of each row costs here, so that all rows are trained for the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from sparsevit.data.base import Dataset
from sparsevit.data.sources import open_training
from sparsevit.latency.timers import thread_count
from sparsevit.search.steps import Session
from sparsevit.training.engine import Trainer
from sparsevit.training.plan import ConfigPlan
from sparsevit.training.settings import TrainingSettings

CHUNK = 4
"""Steps in a row; the first waits for its images, and does not count."""
ROUNDS = (3, 12)
PLAN_STEPS = 10_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Case:
    """A training to be timed. plan: of `steps` steps. chunks: of a round; more where steps differ
    from each other, as in an adaptation."""

    session: Session
    plan: ConfigPlan
    chunks: int = 1


def step_seconds(
    cases: Mapping[str, Case],
    settings: TrainingSettings,
    seconds: float,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Mean seconds of a step of each case, reading included, taken in turns for about `seconds`.

    In turns, and the same for all: a machine that is slower for a while makes all of them slower. The
    models are copies, thrown away afterwards.
    """
    settings = replace(settings, steps=PLAN_STEPS, epochs=None)
    data = open_training(*_first(cases), checked=True)
    trainers = {name: _trainer(case, data, settings) for name, case in cases.items()}
    found: dict[str, list[float]] = {name: [] for name in cases}
    begin = time.perf_counter()
    for number in range(ROUNDS[1]):
        late = time.perf_counter() - begin > seconds
        if late and number >= ROUNDS[0]:
            break
        for name, trainer in trainers.items():
            chunks = [_chunk(trainer, cases[name].session) for _ in range(cases[name].chunks)]
            found[name].append(float(np.mean(chunks)))
        if progress is not None:
            progress(number + 1, max(number + 1, ROUNDS[0]))
    # Of the rounds the middle one: a round that was disturbed must not count.
    return {name: float(np.median(rounds)) for name, rounds in found.items()}


def _first(cases: Mapping[str, Case]) -> tuple:
    session = next(iter(cases.values())).session
    return session.dataset, session.model


def _trainer(case: Case, data: Dataset, settings: TrainingSettings) -> Trainer:
    session = case.session
    model = session.load().to(session.device, torch.float32)
    model.preprocess = session.preprocess
    size = (session.input["height"], session.input["width"])
    return Trainer(model, data, settings, case.plan, size)


def _chunk(trainer: Trainer, session: Session) -> list[float]:
    """Seconds of each step but the first of a few."""
    stamps: list[float] = []

    def stamp(done: int, total: int, loss: float) -> None:
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)
        stamps.append(time.perf_counter())

    with thread_count(session.evaluation_threads):
        trainer.run(until=trainer.step + CHUNK, progress=stamp)
    return np.diff(stamps).tolist()
