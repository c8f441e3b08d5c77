"""Model folders as Hugging Face writes them: config.json beside whole or sharded weights.

Nothing a folder says is believed: shards must be plain files inside it, and the bounds of a single
file hold for all its shards together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsevit.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointMismatch,
    CheckpointTooLarge,
    CheckpointUnsafe,
)
from sparsevit.opening import open_file
from sparsevit.swin.checkpoints.reading import (
    MAX_BYTES,
    MAX_HEADER,
    MAX_TENSORS,
    SAFETENSORS_SUFFIX,
    TORCH_SUFFIXES,
    read_tensors,
)
from sparsevit.swin.checkpoints.report import shown, some

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"


# Tensors by name, string metadata, and the content of config.json (None without one).
Content = tuple[dict[str, Tensor], dict[str, str], dict[str, Any] | None]


def read_checkpoint(path: Path) -> Content:
    """All that a file or a model folder holds. Raises a CheckpointError, as `read_tensors` does."""
    try:
        folder = path.is_dir()
    except OSError as error:
        raise CheckpointError(f"{shown(path.name)} cannot be read: {error.strerror}.") from error
    return _read_folder(path) if folder else (*read_tensors(path), None)


def read_document(path: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of a model folder; None where there is none, or the path is a weights file."""
    return _read_json(path, name) if path.is_dir() and _exists(path, name) else None


def weight_files(path: Path) -> list[Path]:
    """The files that `read_checkpoint` takes its tensors from, in order of name."""
    if not path.is_dir():
        return [path]
    for weights in WEIGHTS:
        if _exists(path, weights):
            return [path / weights]
        if _exists(path, weights + INDEX):
            shards = _read_json(path, weights + INDEX)["weight_map"].values()
            return [path / name for name in sorted(set(shards))]
    return []


def _read_folder(folder: Path) -> Content:
    """safetensors are preferred to pickles, one file to shards."""
    config = _read_json(folder, CONFIG) if _exists(folder, CONFIG) else None
    for weights in WEIGHTS:
        if _exists(folder, weights):
            tensors, metadata = read_tensors(_inside(folder, weights))
            return tensors, metadata, config
        if _exists(folder, weights + INDEX):
            return _read_shards(folder, weights + INDEX), {}, config
    raise CheckpointError(
        f"the folder {folder} holds no weights: none of {', '.join(WEIGHTS)}, nor an index of "
        "shards. Give the file itself if it has another name."
    )


def _read_shards(folder: Path, index: str) -> dict[str, Tensor]:
    """The tensors of every shard that the index names, and no more than it names."""
    places = _read_json(folder, index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise CheckpointCorrupt(f"{index} is damaged: its weight_map maps no names to files.")
    if len(places) > MAX_TENSORS:
        raise CheckpointTooLarge(f"{index} lists {len(places)} tensors, over {MAX_TENSORS}.")
    shards = {name: _shard(folder, name, index) for name in sorted(set(places.values()))}
    _check_bytes(index, sum(path.stat().st_size for path in shards.values()))
    tensors: dict[str, Tensor] = {}
    claimed = 0
    for name, path in shards.items():
        part, _ = read_tensors(path)
        claimed += sum(tensor.numel() * tensor.element_size() for tensor in part.values())
        _check_bytes(index, claimed)
        tensors |= {key: tensor for key, tensor in part.items() if places.get(key) == name}
    missing = sorted(places.keys() - tensors.keys())
    if missing:
        raise CheckpointCorrupt(f"the shards of {index} lack {some(missing)}: fetch them whole.")
    return tensors


def _check_bytes(index: str, count: int) -> None:
    if count > MAX_BYTES:
        raise CheckpointTooLarge(f"the shards of {index} hold {count} bytes, over {MAX_BYTES}.")


def _shard(folder: Path, name: str, index: str) -> Path:
    plain = name.isprintable() and Path(name).name == name and not {"/", "\\"} & set(name)
    if not plain or Path(name).suffix not in (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES):
        raise CheckpointUnsafe(
            f"{index} names the shard {shown(name)!r}, which is no plain file name."
        )
    if not _exists(folder, name):
        raise CheckpointCorrupt(f"{index} names the shard {shown(name)}, which is missing.")
    return _inside(folder, name)


def _exists(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except OSError as error:
        raise CheckpointError(f"{shown(name)} cannot be read: {error.strerror}.") from error


def _inside(folder: Path, name: str) -> Path:
    """The file, unless it is a link that leads out of the folder.

    Hugging Face's cache is made of such links: snapshots/REVISION/NAME to blobs/HASH. Those two
    folders are one checkpoint.
    """
    home, target = folder.resolve(), (folder / name).resolve()
    cached = home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs"
    if target.parent != home and not cached:
        raise CheckpointUnsafe(
            f"{shown(name)} is a link that leads out of its folder. Copy the folder with its files: "
            "cp -rL FOLDER COPY."
        )
    return folder / name


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        with open_file(_inside(folder, name), CheckpointMismatch) as file:
            raw = file.read(MAX_HEADER + 1)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror}.") from error
    if len(raw) > MAX_HEADER:
        raise CheckpointTooLarge(f"{name} has more than {MAX_HEADER} bytes.")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointCorrupt(f"{name} is damaged: it is no JSON.") from error
    if not isinstance(document, dict):
        raise CheckpointCorrupt(f"{name} is damaged: it holds no object.")
    return document
