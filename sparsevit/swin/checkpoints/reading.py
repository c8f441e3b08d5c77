"""Tensors out of checkpoint files, without ever running code from them.

safetensors first; `.pth` and `.pt` through torch.load(weights_only=True) only, with no fallback.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsevit.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointMismatch,
    CheckpointTooLarge,
    CheckpointUnsafe,
)

MAX_BYTES = 8 * 2**30  # Swin-L with its optimiser is below 3 GB
MAX_TENSORS = 20_000
MAX_HEADER = 16 * 2**20

SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".pth", ".pt", ".bin")
ADVICE = (
    "Save the state dict as safetensors: safetensors.torch.save_file(model.state_dict(), PATH)."
)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file by name, and its string metadata (empty for torch files).

    Nested dicts of torch files are flattened with dots; what is no tensor is left out.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}.")
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointTooLarge(f"{path.name} has {path.stat().st_size} bytes, over {MAX_BYTES}.")
    if path.suffix == SAFETENSORS_SUFFIX:
        return _read_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path), {}
    raise CheckpointUnsafe(
        f"{path.name} is no {SAFETENSORS_SUFFIX} and none of {TORCH_SUFFIXES}. {ADVICE}"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = _safetensors_header(path)
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointCorrupt(f"{path.name} is damaged: {error}") from error
    return tensors, header.get("__metadata__", {})


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header, its size checked before anything is allocated for it."""
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= length <= path.stat().st_size - 8:
            raise CheckpointCorrupt(f"{path.name} is damaged: its header does not fit the file.")
        if length > MAX_HEADER:
            raise CheckpointTooLarge(f"{path.name} has a header of {length} bytes.")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise CheckpointCorrupt(f"{path.name} is damaged: its header is no JSON.") from error
    if not isinstance(header, dict):
        raise CheckpointCorrupt(f"{path.name} is damaged: its header is no object.")
    if len(header) > MAX_TENSORS:
        raise CheckpointTooLarge(f"{path.name} lists {len(header)} tensors, over {MAX_TENSORS}.")
    return header


def _read_torch(path: Path) -> dict[str, Tensor]:
    _check_torch_size(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise CheckpointUnsafe(
                f"{path.name} holds more than tensors and is not opened: it could run code. {ADVICE}"
            ) from error
        raise CheckpointCorrupt(f"{path.name} is damaged: it cannot be unpickled.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupt(f"{path.name} is damaged: {type(error).__name__}.") from error
    tensors: dict[str, Tensor] = {}
    _flatten("", loaded, tensors, 0)
    if not tensors:
        raise CheckpointMismatch(f"{path.name} holds no tensors. {ADVICE}")
    return tensors


def _check_torch_size(path: Path) -> None:
    """A zip that claims far more than it holds is refused before it is unpacked."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(info.file_size for info in archive.infolist())
    if claimed > MAX_BYTES or claimed > 20 * path.stat().st_size:
        raise CheckpointTooLarge(f"{path.name} would unpack to {claimed} bytes.")


def _flatten(prefix: str, value: Any, tensors: dict[str, Tensor], depth: int) -> None:
    if isinstance(value, Tensor):
        if len(tensors) >= MAX_TENSORS:
            raise CheckpointTooLarge(f"the file holds more than {MAX_TENSORS} tensors.")
        tensors[prefix] = value
    elif isinstance(value, dict) and depth < 4:
        for key, item in value.items():
            _flatten(f"{prefix}.{key}" if prefix else str(key), item, tensors, depth + 1)
