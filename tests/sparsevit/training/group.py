"""torchrun -m tests.sparsevit.training.group: trains in several processes, and says the losses."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from sparsevit.training.adapt import adapt
from sparsevit.training.distributed import process_group, processes
from sparsevit.training.settings import TrainingSettings
from tests.sparsevit.training.small import SETTINGS, SIZE, Canvases, small_model

# Parts of a step that a mean weighs alike; and parts of which each has a mean of its own.
EQUAL = replace(SETTINGS, batch=4, accumulate=2, augment=False, steps=5)
RANDOM = replace(SETTINGS, batch=4, accumulate=1, steps=5)


def losses(settings: TrainingSettings, dropout: float, background_weight: float) -> list[float]:
    seen: list[float] = []
    model = small_model(dropout, background_weight)
    adapt(model, Canvases(), settings, "l2", lambda i, n, loss: seen.append(loss), size=SIZE)
    return seen


def main() -> None:
    torch.set_num_threads(1)
    with process_group("cpu"):
        found = [losses(EQUAL, 0.0, 1.0), losses(RANDOM, 0.3, 0.3)]
        if processes().first:
            print(json.dumps({"processes": processes().count, "losses": found}), flush=True)


if __name__ == "__main__":
    main()
