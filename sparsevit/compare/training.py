"""The trainings of a comparison: slice by slice, with the time that each took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsevit.compare.store import Store
from sparsevit.search.steps import Session
from sparsevit.search.training import train
from sparsevit.sparsity.config import Genes
from sparsevit.training.settings import Kind, TrainingSettings

SLICE_SECONDS = 120.0
"""What a kill costs at most."""

Progress = Callable[[int, int], None]


def trained(
    session: Session,
    kind: Kind,
    settings: TrainingSettings,
    steps: int,
    seed: int,
    store: Store,
    name: str,
    genes: Genes | None = None,
    progress: Progress | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Weights NAME.safetensors in the folder, trained now unless they are there, and {"steps",
    "seconds", "cpu_seconds"}: the clock's and this process's time, loading and saving included.

    A training that was stopped goes on where it was.
    """
    weights, checkpoint = store.path(f"{name}.safetensors"), store.path(f"{name}.training")
    facts = f"{name}.time.json"
    spent = store.read(facts) or {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    document = replace(settings, steps=steps, epochs=None, seed=seed).to_dict()
    while not weights.exists() or spent["steps"] < steps:
        begin, cpu = time.perf_counter(), time.process_time()
        made = train(
            session,
            kind,
            document,
            checkpoint,
            weights,
            genes=genes,
            seconds=SLICE_SECONDS,
            progress=lambda done, total, loss: progress(done, total) if progress else None,
        )
        spent = {
            "steps": made["step"],
            "seconds": spent["seconds"] + time.perf_counter() - begin,
            "cpu_seconds": spent["cpu_seconds"] + time.process_time() - cpu,
        }
        store.write(facts, spent)
    checkpoint.unlink(missing_ok=True)
    return weights, spent
