"""The metric of a checkpoint, or of a best config, on a named split of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsevit import metrics
from sparsevit.data.base import Dataset, spread
from sparsevit.data.sources import DatasetLike, dataset_spec, open_split
from sparsevit.deploy import load_config
from sparsevit.evaluate import Progress, evaluate
from sparsevit.latency.modes import apply_mode
from sparsevit.latency.timers import thread_count
from sparsevit.search.inputs import PRECISIONS, open_device
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.files import load_model

SPREAD_IMAGES = 256


def score_checkpoint(
    checkpoint: str | Path,
    dataset: DatasetLike,
    config: str | Path | None = None,
    split: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The metric of a model on a whole split, with its 95% interval; JSON.

    config: a best config JSON; its preprocessing, precision and mode apply, so that the metric it
    states is found again, exactly where device and threads are those of the search. None: dense.
    split: as metrics name it (val, val:holdout, ...); None: the config's, else the search split.
    size: (height, width) that the model sees; None: what the config or the checkpoint says, else
    images stay as they are.

    Raises ConfigError where the config was measured with other weights, DatasetError where images
    come in several sizes and nothing says at which one the model sees them.
    """
    place = open_device(device)
    model, document = load_model(checkpoint), {}
    sparsity = SparsityConfig.dense(model.backbone.config.pairs)
    if config is not None:
        deployed = load_config(config)
        model.set_sparsity(deployed)
        sparsity, document = deployed.sparsity, deployed.document
    model.preprocess = model.preprocess.updated({"resize": size})
    given = document.get("input", {})
    model = model.to(place, PRECISIONS[given.get("precision", "fp32")]).eval()
    apply_mode(model, given.get("mode", "eager"), place)
    metric = document.get("metric", {})
    split = split or metric.get("split") or dataset_spec(dataset)["search_split"]
    data = open_split(dataset, model, split)
    with thread_count(threads):
        (states,) = evaluate(
            model, [sparsity.genes], sparsity.score, data, range(len(data)), progress=progress
        )
    total, spec = metrics.merge(states, model.metric), model.metric
    return {
        "metric": spec["name"],
        "value": metrics.value(total, spec),
        "interval": list(metrics.interval(states, spec)),
        "details": metrics.details(total, spec),
        "split": split,
        "images": len(data),
        **sparsity.to_dict(),
        "weights_sha256": model.weights_sha256,
        "stated": _stated(metric, split),
    }


def spread_score(
    model: TaskModel, configs: Sequence[SparsityConfig], dataset: Dataset
) -> list[float]:
    """The metric of configs of one score, on up to SPREAD_IMAGES images spread over a data set."""
    indices = spread(len(dataset), min(SPREAD_IMAGES, len(dataset)))
    genes = [config.genes for config in configs]
    spec = model.metric
    states = evaluate(model, genes, configs[0].score, dataset, indices)
    return [metrics.value(metrics.merge(folds, spec), spec) for folds in states]


def _stated(metric: Mapping[str, Any], split: str) -> float | None:
    """What a best config says its metric on the split is, where it says so."""
    for part in (metric, metric.get("search", {})):
        if part.get("split") == split:
            return part["value"]
    return None
