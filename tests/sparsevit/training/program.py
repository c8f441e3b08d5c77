"""python -m tests.sparsevit.training.program CHECKPOINT: trains with a checkpoint every three steps,
and says every step. Made to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sparsevit.training.slices import SlicedTraining, train_slice
from tests.sparsevit.training.small import SETTINGS, SIZE, Canvases, digest, small_model

STEPS = SETTINGS.updated({"steps": 30})
SAVED_EVERY = 3


def main(checkpoint: Path) -> None:
    torch.set_num_threads(1)
    training = SlicedTraining(
        small_model(0.2), Canvases(), "adapt", STEPS, "l2", None, SIZE, checkpoint
    )
    print("begins at", training.trainer.step, flush=True)
    done = False
    while not done:
        until = training.trainer.step + SAVED_EVERY
        done = training.run(until=until, progress=lambda i, n, loss: print(i, flush=True)).done
    print(digest(training.trainer.model), flush=True)


def undisturbed(checkpoint: Path) -> str:
    """The weights of the same training in one piece."""
    model = small_model(0.2)
    train_slice(model, Canvases(), "adapt", STEPS, score="l2", size=SIZE, checkpoint=checkpoint)
    return digest(model)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
