"""What a search's model is fed and how it runs: the `input` of a request, filled in and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparsevit.errors import ConfigError, DeviceError, DeviceUnsuited
from sparsevit.latency.modes import check_mode
from sparsevit.swin.model import SparseSwin

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_INPUTS = 4
"""Of one search."""

MOST = {"height": 8192, "width": 8192, "batch": 1024, "threads": 1024}


def check_inputs(inputs: Sequence[Mapping[str, Any]]) -> None:
    """Raises ConfigError unless these are one to MOST_INPUTS inputs of different height or width, and
    the same in everything else."""
    if not 1 <= len(inputs) <= MOST_INPUTS:
        raise ConfigError(f"input is one object, or a list of 1 to {MOST_INPUTS}.")
    sizes = [(one.get("height"), one.get("width")) for one in inputs]
    rest = [{k: v for k, v in one.items() if k not in ("height", "width")} for one in inputs]
    if len(set(sizes)) < len(sizes) or any(one != rest[0] for one in rest):
        raise ConfigError("several inputs differ in height or width, and in nothing else.")


def fill_input(
    given: Mapping[str, Any], size: tuple[int, int], device: torch.device
) -> dict[str, Any]:
    """height, width, batch, precision, mode, threads, each as given or by default (None counts as
    not given). size: (height, width) of the data set's images.

    Raises ConfigError for a value that makes no sense, DeviceUnsuited for a mode the device lacks.
    """
    defaults = {"height": size[0], "width": size[1], "batch": 1, "precision": "fp32"}
    defaults |= {"mode": "eager", "threads": None}
    if unknown := given.keys() - defaults.keys():
        raise ConfigError(f"input has no field {sorted(unknown)[0]!r}.")
    filled = defaults | {k: v for k, v in given.items() if v is not None}
    if device.type == "cpu" and filled["threads"] is None:
        filled["threads"] = torch.get_num_threads()
    for name, most in MOST.items():
        value = filled[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and 1 <= value <= most) and not (name == "threads" and value is None):
            raise ConfigError(f"input {name} is {value!r}; it is a whole number from 1 to {most}.")
    if filled["precision"] not in PRECISIONS:
        raise ConfigError(
            f"precision is {filled['precision']!r}; it is one of {', '.join(PRECISIONS)}."
        )
    check_mode(filled["mode"], device)
    return filled


def open_device(name: str) -> torch.device:
    """Raises DeviceError where there is none of this name."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"there is no device {name!r} here: {error}") from error
    return device


@torch.inference_mode()
def check_precision(backbone: SparseSwin, precision: str) -> None:
    """Raises DeviceUnsuited where the backbone's device cannot compute in its precision."""
    parameter = next(backbone.parameters())
    device, dtype = parameter.device, parameter.dtype
    lacking = device.type == "cuda" and dtype is torch.bfloat16
    if lacking and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise DeviceUnsuited(f"{device} has no arithmetic in bf16: use fp16 or fp32.")
    side = backbone.config.patch_size * backbone.config.window_size
    image = torch.zeros(1, backbone.config.in_channels, side, side, device=device, dtype=dtype)
    try:
        backbone(image)
    except (RuntimeError, NotImplementedError) as error:
        raise DeviceUnsuited(
            f"{device} cannot compute in {precision} ({str(error).splitlines()[0]}): use fp32."
        ) from error
