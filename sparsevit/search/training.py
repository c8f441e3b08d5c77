"""Training within a search: adaptation before it, fine-tuning of its winner, both in slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsevit.data.sources import open_training
from sparsevit.errors import ConfigError
from sparsevit.latency.memory import memory_errors
from sparsevit.latency.timers import thread_count
from sparsevit.sparsity.config import Genes
from sparsevit.tasks.files import save_model
from sparsevit.training.engine import check_precision
from sparsevit.training.settings import Kind, TrainingSettings, recommended
from sparsevit.training.slices import train_slice

if TYPE_CHECKING:
    from sparsevit.search.steps import Session

MOST_STEPS = 10_000_000
TrainingProgress = Callable[[int, int, float], None]  # (steps done, steps in all, loss)


def settled_settings(
    session: Session,
    asked: Mapping[Kind, Mapping[str, Any] | None],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """{kind: every setting, or None where it is not asked for}: as asked for, else recommended.
    "training_sha256": see Session.training_sha256; None where nothing is trained.

    Raises ConfigError for a setting that makes no sense, or that this device cannot follow, and
    DatasetError where the training split cannot be used, before anything else is done.
    """
    task = session.model.task
    settings = {
        kind: None if given is None else recommended(task, kind).updated(given)
        for kind, given in asked.items()
    }
    settled = {kind: one and one.to_dict() for kind, one in settings.items()}
    trained = [one for one in settings.values() if one is not None]
    if not trained:
        return {**settled, "training_sha256": None}
    for one in trained:
        check_precision(one.precision, session.device)
    data = open_training(session.dataset, session.model)
    for one in trained:
        _check_length(one, len(data))
    data.check(progress)
    return {**settled, "training_sha256": session.training_sha256()}


def _check_length(settings: TrainingSettings, images: int) -> None:
    """Raises ConfigError for a training whose plan alone would fill the memory."""
    steps = settings.steps_over(images)
    if steps > MOST_STEPS:
        raise ConfigError(
            f"a training of {steps:.3g} steps is too long; at most {MOST_STEPS} are taken. Give fewer "
            "epochs or steps, or more images a step (batch, accumulate)."
        )


def train(
    session: Session,
    kind: Kind,
    settings: Mapping[str, Any],
    checkpoint: Path,
    weights: Path,
    *,
    genes: Genes | None = None,
    seconds: float | None = None,
    progress: TrainingProgress | None = None,
    enough: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Trains for up to `seconds` (None: to the end), or until `enough`, asked after every step, from
    `checkpoint`, where that file is, and writes it anew; once done, writes the weights.

    The session's own model is for evaluation, in the precision and mode of its input: training
    takes the weights afresh, in fp32. genes: the config that is fine-tuned.
    Returns {"step", "steps", "loss", "done", "weights": SHA-256 of the weights once done}.
    """
    model = session.load().to(session.device, torch.float32)
    model.preprocess = session.preprocess
    with memory_errors(), thread_count(session.evaluation_threads):
        made = train_slice(
            model,
            open_training(session.dataset, model, checked=True),  # by the inspection
            kind,
            TrainingSettings.from_dict(settings),
            score=session.score,
            sparsity=None if genes is None else session.sparsity(genes),
            size=(session.input["height"], session.input["width"]),
            checkpoint=checkpoint,
            seconds=seconds,
            progress=progress,
            enough=enough,
        )
    return {
        "step": made.step,
        "steps": made.steps,
        "loss": made.loss,
        "done": made.done,
        "weights": save_model(model, weights) if made.done else None,
    }
