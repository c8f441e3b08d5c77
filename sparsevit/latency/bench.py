"""Times a user's model, dense against a config, interleaved: `sparsevit bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsevit.deploy import DeployConfig, load_config
from sparsevit.errors import CheckpointMismatch
from sparsevit.latency.meter import measure_many
from sparsevit.latency.receipt import device_facts
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.checkpoints.microsoft import load_backbone
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.files import load_model

UNIFORM_RATIOS = (0.3, 0.5, 0.6, 0.7, 0.8)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def open_model(checkpoint: str | Path) -> TaskModel | SparseSwin:
    """A task model, or else the bare backbone that the file holds."""
    try:
        return load_model(checkpoint)
    except CheckpointMismatch as no_task:
        try:
            return load_backbone(checkpoint)
        except CheckpointMismatch as no_swin:
            raise no_swin from no_task


def bench_model(
    checkpoint: str | Path,
    config: str | Path | None = None,
    *,
    height: int = 448,
    width: int = 448,
    batch: int = 1,
    precision: str = "fp32",
    threads: int | None = None,
    device: str = "cpu",
    max_seconds: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Latency of the dense model beside one config, or beside the uniform ratios without one.

    Returns {"device", "input", "rows": [{"name", "ms", "interval", "ratio", "images_per_second",
    "kept_windows", "disturbed"}]}; ms are medians of whole forward passes on random images.
    """
    place = torch.device(device)
    model = open_model(checkpoint).to(place, PRECISIONS[precision])
    backbone = model if isinstance(model, SparseSwin) else model.backbone
    images = torch.randn(batch, 3, height, width, device=place, dtype=PRECISIONS[precision])
    configs = _configs(model, backbone, config)
    dense = _run(model, backbone, SparsityConfig.dense(backbone.config.pairs), images)
    with torch.inference_mode():
        found = measure_many(
            [dense, *(_run(model, backbone, c, images) for c in configs.values())],
            dense,
            device=place,
            threads=threads,
            max_seconds=max_seconds,
            progress=progress,
        )
    rows = []
    for name, measured in zip(("dense", *configs), found, strict=True):
        sparsity = configs.get(name, SparsityConfig.dense(backbone.config.pairs))
        rows.append(
            {
                "name": name,
                "ms": measured.p50,
                "interval": list(measured.interval),
                "ratio": measured.ratio,
                "images_per_second": batch * 1000 / measured.p50,
                "kept_windows": backbone.kept_windows(sparsity, height, width),
                "disturbed": measured.disturbed,
            }
        )
    shape = {"height": height, "width": width, "batch": batch, "precision": precision}
    return {
        "device": device_facts(place),
        "input": shape | {"threads": found[0].threads},
        "rows": rows,
    }


def _configs(
    model: nn.Module, backbone: SparseSwin, path: str | Path | None
) -> dict[str, SparsityConfig]:
    pairs = backbone.config.pairs
    if path is None:
        return {
            f"uniform {ratio}": SparsityConfig.uniform(pairs, ratio) for ratio in UNIFORM_RATIOS
        }
    config: DeployConfig = load_config(path)
    if isinstance(model, TaskModel):
        config.check_weights(model.weights_sha256)
    return {Path(path).name: config.sparsity}


def _run(
    model: nn.Module, backbone: SparseSwin, sparsity: SparsityConfig, images: torch.Tensor
) -> Callable[[], Any]:
    def run() -> Any:
        backbone.set_sparsity(sparsity)
        return model(images)

    return run
