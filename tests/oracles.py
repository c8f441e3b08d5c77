"""Libraries that tests compare with: how they are imported on machines like CI's."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

# torch drops the operators of a library object that nothing holds any more.
_KEPT: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """torchvision, also where its compiled operators do not load; timm and transformers need it.

    The registry's wheel of torchvision is built for CUDA. Beside a torch for CPUs its operators
    (nms, roi_align) cannot be loaded, and importing it fails, because it then gives shapes to an
    operator that does not exist. Declared without a kernel, they let it import: its models run,
    and a detector that calls nms would still raise. Call this before the first import of timm or
    transformers; where the operators do load, nothing is declared.
    """
    if "torchvision" not in sys.modules and not _operators_load():
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
    return importlib.import_module("torchvision")


def _operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is missing: pip install -e '.[dev]'")
    for path in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(path)
        except OSError:
            continue
        return True
    return False
