"""Times a user's model, dense against a config, interleaved: `sparsevit bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsevit.deploy import DeployConfig, load_config
from sparsevit.errors import CheckpointMismatch
from sparsevit.latency.allocator import keep_memory
from sparsevit.latency.meter import measure_many
from sparsevit.latency.modes import apply_mode, as_mode
from sparsevit.latency.receipt import device_facts
from sparsevit.search.inputs import PRECISIONS, check_precision, fill_input, open_device
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.checkpoints.load import load_backbone
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.files import load_model

DEFAULT_SIZE = (448, 448)
UNIFORM_RATIOS = (0.3, 0.5, 0.6, 0.7, 0.8)


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
    input: Mapping[str, Any] | None = None,
    device: str = "cpu",
    max_seconds: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Latency of the dense model beside one config, or beside the uniform ratios without one.

    input: height, width, batch, precision, mode, threads; what it leaves out (or None) is taken
    from the config, else 448 x 448 pixels and the defaults of sparsevit.search.inputs.
    Returns {"device", "input", "rows": [{"name", "ms", "interval", "ratio", "images_per_second",
    "executed_windows", "disturbed"}]}; ms are medians of whole forward passes on random images.
    """
    deployed = load_config(config) if config is not None else None
    place = open_device(device)
    shape = _shape(input or {}, deployed, place)
    if place.type == "cpu":
        keep_memory()
    dtype = PRECISIONS[shape["precision"]]
    model = open_model(checkpoint).to(place, dtype)
    backbone = model if isinstance(model, SparseSwin) else model.backbone
    check_precision(backbone, shape["precision"])
    apply_mode(model, shape["mode"], place)
    images = torch.randn(
        shape["batch"], 3, shape["height"], shape["width"], device=place, dtype=dtype
    )
    configs = {"dense": SparsityConfig.dense(backbone.config.pairs)}
    configs |= _configs(model, backbone, config, deployed)
    with torch.inference_mode():
        runs = {
            name: as_mode(_run(model, backbone, one, images), shape["mode"])
            for name, one in configs.items()
        }
        found = measure_many(
            list(runs.values()),
            runs["dense"],
            device=place,
            threads=shape["threads"],
            max_seconds=max_seconds,
            progress=progress,
        )
        rows = []
        for (name, _), measured in zip(runs.items(), found, strict=True):
            _run(model, backbone, configs[name], images)()
            rows.append(
                {
                    "name": name,
                    "ms": measured.p50,
                    "interval": list(measured.interval),
                    "ratio": measured.ratio,
                    "images_per_second": shape["batch"] * 1000 / measured.p50,
                    "executed_windows": backbone.executed_windows,
                    "disturbed": measured.disturbed,
                }
            )
    return {"device": device_facts(place), "input": shape, "rows": rows}


def _shape(
    given: Mapping[str, Any], deployed: DeployConfig | None, device: torch.device
) -> dict[str, Any]:
    stated = (deployed.document.get("input") or {}) if deployed else {}
    asked = {k: v for k, v in given.items() if v is not None}
    return fill_input(stated | asked, DEFAULT_SIZE, device)


def _configs(
    model: nn.Module,
    backbone: SparseSwin,
    path: str | Path | None,
    deployed: DeployConfig | None,
) -> dict[str, SparsityConfig]:
    if path is None or deployed is None:
        pairs = backbone.config.pairs
        return {
            f"uniform {ratio}": SparsityConfig.uniform(pairs, ratio) for ratio in UNIFORM_RATIOS
        }
    if isinstance(model, TaskModel):
        deployed.check_weights(model.weights_sha256)
    return {Path(path).name: deployed.sparsity}


def _run(
    model: nn.Module, backbone: SparseSwin, sparsity: SparsityConfig, images: torch.Tensor
) -> Callable[[], Any]:
    def run() -> Any:
        backbone.set_sparsity(sparsity)
        return model(images)

    return run
