"""How a model is executed: eager, compiled or cuda_graph. The mode is part of every latency.

eager       as it is
compiled    every block by torch.compile, for any number of windows: one compilation serves all
            configs, since they differ in how many windows a block gets and in nothing else
cuda_graph  the whole forward recorded once for a config and an input shape, then replayed: no
            launch gaps are left
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsevit.errors import ConfigError, DeviceUnsuited
from sparsevit.swin.layers import SwinBlock

Mode = Literal["eager", "compiled", "cuda_graph"]
MODES: tuple[Mode, ...] = ("eager", "compiled", "cuda_graph")

# Stages, shifted or not, padded or not: more versions of one block than torch allows by default.
MOST_VERSIONS = 64
WARM_UP = 3
COMPILERS = ("c++", "g++", "clang++")

Run = Callable[[], Any]


def check_mode(mode: str, device: torch.device) -> None:
    """Raises ConfigError for a mode that is none, DeviceUnsuited for one this device cannot run."""
    if mode not in MODES:
        raise ConfigError(f"mode is {mode!r}; it is one of {', '.join(MODES)}.")
    if mode == "cuda_graph" and device.type != "cuda":
        raise DeviceUnsuited(f"mode cuda_graph needs a CUDA device, this is {device}: use eager.")
    if mode == "compiled" and device.type == "cpu" and not _compiler():
        raise DeviceUnsuited(
            "mode compiled needs a C++ compiler on the machine that runs the model: install g++, "
            "or use eager."
        )


def apply_mode(model: nn.Module, mode: str, device: torch.device) -> None:
    """Makes a model run in a mode from its next call on; a cuda_graph is made by `as_mode`.

    What is deployed should run as it was measured: call this after `set_sparsity`, or before, with
    the mode that the best config states under `input`. The first calls of a compiled model take
    up to a minute. ConfigError for a graph of a model that cannot be recorded (TaskModel.recordable).
    """
    if mode == "cuda_graph" and not getattr(model, "recordable", True):
        raise ConfigError(
            "this model's shapes depend on what it sees, and a CUDA graph has fixed ones: use the mode "
            "eager or compiled."
        )
    check_mode(mode, device)
    if mode != "compiled":
        return
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VERSIONS)
    for module in model.modules():
        if isinstance(module, SwinBlock):
            module.compile(dynamic=True)


def as_mode(run: Run, mode: str) -> Run:
    """A run as its mode executes it: recorded in a CUDA graph, which every call replays, or as it
    is. What a recorded run reads and writes must stay where it is."""
    if mode != "cuda_graph":
        return run
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()

    def replay() -> Any:
        graph.replay()
        return output

    return replay


def over_images(
    forward: Callable[[Tensor], Any], images: list[Tensor], mode: str, before: Run
) -> Run:
    """A run that goes on to the next of `images` (same shapes) at every call, as deployed.

    before: what each call begins with (the model's config is set), in a graph only once.
    """
    position = 0

    def following() -> Tensor:
        nonlocal position
        position = (position + 1) % len(images)
        return images[position]

    if mode == "cuda_graph":
        held = images[0].clone()
        before()
        replay = as_mode(lambda: forward(held), mode)

        def graphed() -> Any:
            held.copy_(following())
            return replay()

        return graphed

    def run() -> Any:
        before()
        return forward(following())

    return run


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return next(
        (found for one in (named, *COMPILERS) if one and (found := shutil.which(one))), None
    )
