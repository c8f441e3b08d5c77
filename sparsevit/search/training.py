"""Training within a search: adaptation before it, fine-tuning of its winner, both in slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsevit.data.sources import open_training
from sparsevit.latency.timers import thread_count
from sparsevit.sparsity.config import Genes
from sparsevit.tasks.files import save_model
from sparsevit.training.settings import Kind, TrainingSettings, recommended
from sparsevit.training.slices import train_slice

if TYPE_CHECKING:
    from sparsevit.search.steps import Session

TrainingProgress = Callable[[int, int, float], None]  # (steps done, steps in all, loss)


def settled_settings(
    session: Session,
    asked: Mapping[Kind, Mapping[str, Any] | None],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """{kind: every setting, or None where it is not asked for}: as asked for, else recommended.

    Raises ConfigError for a setting that makes no sense, and DatasetError, before anything else is
    done, where the training split cannot be used.
    """
    if all(given is None for given in asked.values()):
        return dict(asked)
    open_training(session.dataset, session.model).check(progress)
    task = session.model.task
    return {
        kind: None if given is None else recommended(task, kind).updated(given).to_dict()
        for kind, given in asked.items()
    }


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
) -> dict[str, Any]:
    """Trains for up to `seconds` (None: to the end) from `checkpoint`, where that file is, and
    writes it anew; once done, writes the weights.

    The session's own model is for evaluation, in the precision and mode of its input: training
    takes the weights afresh, in fp32. genes: the config that is fine-tuned.
    Returns {"step", "steps", "loss", "done", "weights": SHA-256 of the weights once done}.
    """
    model = session.load().to(session.device, torch.float32)
    model.preprocess = session.preprocess
    with thread_count(session.evaluation_threads):
        made = train_slice(
            model,
            open_training(session.dataset, model),
            kind,
            TrainingSettings.from_dict(settings),
            score=session.score,
            sparsity=None if genes is None else session.sparsity(genes),
            size=(session.input["height"], session.input["width"]),
            checkpoint=checkpoint,
            seconds=seconds,
            progress=progress,
        )
    return {
        "step": made.step,
        "steps": made.steps,
        "loss": made.loss,
        "done": made.done,
        "weights": save_model(model, weights) if made.done else None,
    }
