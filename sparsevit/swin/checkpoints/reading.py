"""Tensors out of checkpoint files, without ever running code from them.

safetensors first; `.pth` and `.pt` through torch.load(weights_only=True) only, with no fallback.
"""

from __future__ import annotations

import json
import pickletools
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
from sparsevit.opening import open_file, path_of

MAX_BYTES = 8 * 2**30  # Swin-L with its optimiser is below 3 GB
MAX_TENSORS = 20_000
MAX_HEADER = 16 * 2**20
MAX_ENTRIES = 500_000  # of all dicts of a torch file, however they refer to each other
MAX_DEPTH = 4
LEGACY_PICKLES = 4  # before torch 1.6: magic number, protocol, system, and what names the storages
MAX_GROWTH = 20  # a file may hold tensors of this many times its own size (tied weights, zips)

SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".pth", ".pt", ".bin")
PICKLE_SUFFIXES = (".pkl", ".pickle")
ADVICE = (
    "Save the state dict as safetensors: safetensors.torch.save_file(model.state_dict(), PATH)."
)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file by name, and its string metadata (empty for torch files).

    Nested dicts of torch files are flattened with dots; what is no tensor is left out. Whatever the
    file holds, it gives tensors or a CheckpointError.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint file {path}.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointTooLarge(f"{path.name} has {size} bytes, over {MAX_BYTES}.")
        if path.suffix == SAFETENSORS_SUFFIX or path.suffix in TORCH_SUFFIXES:
            # Parsers open it several times: each time just this file.
            with open_file(path, CheckpointMismatch) as file:
                return _read(path.name, path_of(file), path.suffix)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}.") from error
    if path.suffix in PICKLE_SUFFIXES:
        raise CheckpointUnsafe(
            f"{path.name} is a bare pickle, which could run code, and is not opened. detectron2's "
            "hold NumPy arrays under `model`: where you trust the file, convert it once (see "
            f"docs/checkpoints.md). {ADVICE}"
        )
    raise CheckpointUnsafe(
        f"{path.name} is no {SAFETENSORS_SUFFIX} and none of {TORCH_SUFFIXES}. {ADVICE}"
    )


def _read(name: str, path: Path, suffix: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    if suffix == SAFETENSORS_SUFFIX:
        return _read_safetensors(name, path)
    return _read_torch(name, path), {}


def _read_safetensors(name: str, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors.torch import load_file

    header = _safetensors_header(name, path)
    try:
        tensors = load_file(str(path))
    except Exception as error:
        raise _damage(name, error) from error
    return tensors, header.get("__metadata__") or {}


def _damage(name: str, error: Exception) -> CheckpointError:
    """What a parser's failure says of the file; parsers of foreign bytes fail in any way."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return CheckpointTooLarge(f"{name} claims more memory than there is.")
    return CheckpointCorrupt(f"{name} is damaged: {type(error).__name__}.")


def _safetensors_header(name: str, path: Path) -> dict[str, Any]:
    """The JSON header, its size checked before anything is allocated for it."""
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= length <= path.stat().st_size - 8:
            raise CheckpointCorrupt(f"{name} is damaged: its header does not fit the file.")
        if length > MAX_HEADER:
            raise CheckpointTooLarge(f"{name} has a header of {length} bytes.")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise CheckpointCorrupt(f"{name} is damaged: its header is no JSON.") from error
    if not isinstance(header, dict):
        raise CheckpointCorrupt(f"{name} is damaged: its header is no object.")
    if len(header) > MAX_TENSORS:
        raise CheckpointTooLarge(f"{name} lists {len(header)} tensors, over {MAX_TENSORS}.")
    return header


def _read_torch(name: str, path: Path) -> dict[str, Tensor]:
    _check_torch_size(name, path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise CheckpointUnsafe(
                f"{name} holds more than tensors and is not opened: it could run code. {ADVICE}"
            ) from error
        raise _damage(name, error) from error
    tensors = _flatten(name, loaded)
    if not tensors:
        raise CheckpointMismatch(f"{name} holds no tensors. {ADVICE}")
    _check_tensor_sizes(name, path, tensors)
    return tensors


def _check_torch_size(name: str, path: Path) -> None:
    """A zip that claims far more than it holds is refused before it is unpacked."""
    try:
        if not zipfile.is_zipfile(path):
            return _check_legacy_size(name, path)
        with zipfile.ZipFile(path) as archive:
            claimed = sum(info.file_size for info in archive.infolist())
    except CheckpointTooLarge:
        raise
    except Exception as error:
        raise _damage(name, error) from error
    if claimed > min(MAX_BYTES, MAX_GROWTH * path.stat().st_size):
        raise CheckpointTooLarge(f"{name} would unpack to {claimed} bytes.")


def _check_legacy_size(name: str, path: Path) -> None:
    """A file of before torch 1.6 names each storage with its number of elements, and that memory is
    asked for before any of them is read. Its opcodes are looked at, not run."""
    number, size = 0, path.stat().st_size
    with open(path, "rb") as file:
        for _ in range(LEGACY_PICKLES):
            try:
                for opcode, argument, _ in pickletools.genops(file):
                    if opcode.name in ("BININT", "BININT1", "BININT2", "LONG1"):
                        number = argument
                    elif opcode.name == "BINPERSID" and number > size:
                        raise CheckpointTooLarge(f"{name} claims {number} numbers.")
            except ValueError:
                return  # no such file: torch says what is wrong with it


def _check_tensor_sizes(name: str, path: Path, tensors: dict[str, Tensor]) -> None:
    """A tensor of zero strides, or many on one storage, claims more than the file holds."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > min(MAX_BYTES, MAX_GROWTH * path.stat().st_size):
        raise CheckpointTooLarge(f"{name} holds tensors of {claimed} bytes.")


def _flatten(name: str, loaded: Any) -> dict[str, Tensor]:
    """The tensors of nested dicts, their keys joined by dots."""
    tensors: dict[str, Tensor] = {}
    waiting, entries = [("", loaded, 0)], 0
    while waiting:
        key, value, depth = waiting.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
                raise CheckpointMismatch(f"{name}: {key} is no plain tensor with values. {ADVICE}")
            tensors[key] = value
        elif isinstance(value, dict) and depth < MAX_DEPTH:
            entries += len(value)
            if entries > MAX_ENTRIES:
                raise CheckpointTooLarge(f"{name} holds more than {MAX_ENTRIES} entries.")
            waiting += [(f"{key}.{k}" if key else str(k), v, depth + 1) for k, v in value.items()]
    if len(tensors) > MAX_TENSORS:
        raise CheckpointTooLarge(f"{name} holds more than {MAX_TENSORS} tensors.")
    return tensors
