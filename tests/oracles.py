"""Libraries that tests compare with: how they are imported on machines like CI's."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import torch

# torch drops the operators of a library object that nothing holds any more.
_KEPT: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """torchvision, also where its compiled operators do not load; timm and transformers need it.

    The registry's wheel of torchvision is built for CUDA. Beside a torch for CPUs its operators
    (nms, roi_align) cannot be loaded for want of torch's CUDA libraries, and importing it fails,
    because it then gives shapes to an operator that does not exist. Empty libraries in their place,
    made by the C compiler, are enough for the operators on a CPU, which are torchvision's own then.
    Without a compiler the operators are only declared: torchvision imports and its models run, but a
    detector that calls nms raises. Call this before the first import of torchvision, timm or
    transformers; where the operators do load nothing is done.
    """
    if "torchvision" not in sys.modules and not _operators_load():
        _stand_in_for_cuda()
        if not _operators_load():
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _KEPT.append(library)
    return importlib.import_module("torchvision")


def _operators() -> list[Path]:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is missing: pip install -e '.[dev]'")
    return [*Path(spec.origin).parent.glob("_C*.so")]


def _operators_load() -> bool:
    for path in _operators():
        try:
            torch.ops.load_library(path)
        except OSError:
            continue
        return True
    return False


def _stand_in_for_cuda() -> None:
    """Loads a libc10_cuda whose functions end the process, and an empty libtorch_cuda."""
    if shutil.which("cc") is None or shutil.which("nm") is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, source in (("c10_cuda", _source()), ("torch_cuda", "")):
            library = Path(folder, f"lib{name}.so")
            options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library]
            command = ["cc", "-x", "c", "-", *options]
            subprocess.run(command, input=source, text=True, check=True)
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _source() -> str:
    """C that defines all that the operators want of torch's CUDA libraries."""
    wanted = set()
    for path in _operators():
        listed = subprocess.run(
            ["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True
        )
        names = (line.split()[-1] for line in listed.stdout.splitlines())
        wanted |= {name for name in names if "3c104cuda" in name or "2at4cuda" in name}
    lines = ["void abort(void);"]
    for number, name in enumerate(sorted(wanted)):
        if name.endswith("allocatorE"):  # the only variable among them
            lines.append(f'void *s{number}[64] __asm__("{name}");')
        else:
            lines.append(f'void s{number}(void) __asm__("{name}");')
            lines.append(f"void s{number}(void) {{ abort(); }}")
    return "\n".join(lines)
