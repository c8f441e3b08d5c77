"""Dense, unadapted, adapted, searched and fine-tuned digits networks: the released way and ours.

A seed changes initial weights, the order and content of training canvases and the configs drawn. Both
ways begin at the same dense network and take as many steps; metrics are of the report split. The
search has the latency that the uniform config of ratio .6 is predicted to take as its budget, so that
it competes with that config.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import Check, table
from bench.supernet import bar
from sparsevit import metrics
from sparsevit.data.digits import DigitCanvases
from sparsevit.evaluate import evaluate
from sparsevit.search.choices import search_space
from sparsevit.search.evolution import Evaluation, EvolutionSettings, propose
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import Session
from sparsevit.sparsity.config import Genes, SparsityConfig
from sparsevit.tasks.files import load_model, save_model
from sparsevit.tasks.semantic import SegmentationModel
from sparsevit.training import digits_recipe as recipe
from sparsevit.training.adapt import adapt
from sparsevit.training.finetune import finetune
from sparsevit.training.settings import ADAPT_DROPS, FINETUNE_DROPS, TrainingSettings

FOLDER = Path("runs/tasks")
LEVEL = 6
FINETUNE_STEPS = 120
LEAST_RECOVERED = 0.5
STEPS = ("dense", "unadapted", "adapted", "searched", "finetuned")


@dataclass(frozen=True)
class Way:
    """How a dense network becomes a sparse one: the score and the two trainings."""

    name: str
    score: str
    adapt: TrainingSettings
    finetune: TrainingSettings


def ways(quick: bool) -> tuple[Way, Way]:
    """The released recipe (score, rate, drops) and ours, for equally many steps."""
    short = {"steps": 4} if quick else {}
    ours = replace(recipe.ADAPT, **short)
    tuned = replace(ours, steps=short.get("steps", FINETUNE_STEPS), learning_rate=2e-4)
    released = {"learning_rate": 1e-5, "schedule": "step"}
    return (
        Way(
            "released",
            "released",
            replace(ours, **released, drops=ADAPT_DROPS),
            replace(tuned, **released, drops=FINETUNE_DROPS),
        ),
        Way("ours", "variance", ours, tuned),
    )


def training(seeds: int, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    torch.set_num_threads(recipe.THREADS)
    images = 8 if quick else 128
    latency_map, space = calibrated()
    found: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways(quick)}
    for seed in range(seeds):
        dense = dense_network(seed, quick)
        for way in ways(quick):
            path = FOLDER / f"{way.name}-{seed}{'-quick' if quick else ''}.json"
            if not path.exists():
                with bar(f"seed {seed}, {way.name} way") as progress:
                    row = one(dense, way, seed, latency_map, space, images, progress)
                path.write_text(json.dumps(row))
            found[way.name].append(json.loads(path.read_text()))
    rows = [
        [name, *(_cell([row[step] for row in rows]) for step in STEPS), _cell(_recovered(rows))]
        for name, rows in found.items()
    ]
    print(f"\nDigit mIoU of the report split, ratio .6 or its latency, {seeds} seeds: mean (range)")
    print(table(["way", *STEPS, "recovered"], rows))
    recovered = float(np.mean(_recovered(found["ours"])))
    return found, [
        Check("share of the loss at .6 that adaptation recovers", recovered, LEAST_RECOVERED)
    ]


def calibrated() -> tuple[LatencyMap, SearchSpace]:
    """The latency map of the digits network on this machine: the same for all weights."""
    session = Session("builtin:digits", {"path": "builtin:digits", "limit": 8})
    latency_map = LatencyMap.from_dict(session.calibrate()["map"])
    return latency_map, search_space(session.inspect(), None)


def dense_network(seed: int, quick: bool) -> SegmentationModel:
    """Trained from scratch, or what an earlier run left in runs/tasks."""
    path = FOLDER / f"dense-{seed}{'-quick' if quick else ''}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with bar(f"seed {seed}, dense training") as progress:
            save_model(recipe.train_dense(progress, seed=seed, steps=4 if quick else None), path)
    return load_model(path)


def one(
    dense: SegmentationModel,
    way: Way,
    seed: int,
    latency_map: LatencyMap,
    space: SearchSpace,
    images: int,
    progress: Any,
) -> dict[str, float]:
    """The metric after each step of one way."""
    uniform = (LEVEL,) * space.gene_count
    found = {
        "dense": scored(dense, (0,) * space.gene_count, way.score, images),
        "unadapted": scored(dense, uniform, way.score, images),
    }
    model = copy.deepcopy(dense)
    settings = replace(way.adapt, seed=recipe.ADAPT.seed + 10 * seed)
    canvases = DigitCanvases(
        "train", settings.steps * settings.batch, recipe.CANVAS, seed=11 + seed
    )
    adapt(model, canvases, settings, way.score, lambda *now: progress("adaptation", *now))
    found["adapted"] = scored(model, uniform, way.score, images)
    best = searched(model, way.score, latency_map, space, uniform, seed, images // 4)
    found["searched"] = scored(model, best, way.score, images)
    settings = replace(way.finetune, seed=20 + seed)
    canvases = DigitCanvases(
        "train", settings.steps * settings.batch, recipe.CANVAS, seed=21 + seed
    )
    chosen = SparsityConfig.from_genes(best, model.backbone.config.pairs, way.score)
    finetune(model, canvases, settings, chosen, lambda *now: progress("fine-tuning", *now))
    found["finetuned"] = scored(model, best, way.score, images)
    return found


def scored(model: SegmentationModel, genes: Genes, score: str, images: int) -> float:
    """Digit mIoU in percent on the report split."""
    return 100 * _values(model, [genes], score, DigitCanvases("report", images))[0]


def searched(
    model: SegmentationModel,
    score: str,
    latency_map: LatencyMap,
    space: SearchSpace,
    uniform: Genes,
    seed: int,
    images: int,
) -> Genes:
    """The best config of the search split that is no slower than the uniform one."""
    budget_ms = float(latency_map.predict(uniform, "backbone"))
    settings = EvolutionSettings(population=20, parents=6, generations=4, seed=seed)
    history: list[Evaluation] = []
    for generation in range(settings.generations):
        proposals = propose(
            space, latency_map, budget_ms, "backbone", settings, history, generation
        )
        values = _values(model, proposals, score, DigitCanvases("search", images))
        history += [
            Evaluation(genes, generation, value, float(latency_map.predict(genes, "backbone")))
            for genes, value in zip(proposals, values, strict=True)
        ]
    return max(history, key=lambda one: one.metric).genes


def _values(
    model: SegmentationModel, candidates: list[Genes], score: str, data: DigitCanvases
) -> list[float]:
    states = evaluate(model, candidates, score, data, range(len(data)))
    spec = model.metric
    return [metrics.value(metrics.merge(folds, spec), spec) for folds in states]


def _recovered(rows: list[dict[str, float]]) -> list[float]:
    """Of what sparsity costs an unadapted network, the share that adaptation gives back; all of it
    where it costs nothing."""
    lost = [(row["dense"] - row["unadapted"], row) for row in rows]
    return [(row["adapted"] - row["unadapted"]) / loss if loss else 1.0 for loss, row in lost]


def _cell(values: list[float]) -> str:
    digits = 2 if max(map(abs, values)) < 5 else 1
    mean, low, high = (f"{v:.{digits}f}" for v in (np.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"
