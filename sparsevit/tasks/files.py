"""Task models as files: safetensors with everything needed to rebuild the model in the metadata."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch

from sparsevit.data.preprocess import Preprocess
from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.swin.checkpoints.fitting import check_fit
from sparsevit.swin.checkpoints.reading import read_tensors
from sparsevit.swin.checkpoints.writing import write_whole
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.registry import task_class

FORMAT = "sparsevit-1"
BUILTIN = {"builtin:digits": Path(__file__).parents[1] / "data" / "digits-supernet.safetensors"}


def checkpoint_path(checkpoint: str | Path) -> Path:
    """The file of a checkpoint: a path, or a built-in name such as `builtin:digits`."""
    return BUILTIN.get(str(checkpoint), Path(checkpoint))


def sha256_file(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_model(model: TaskModel, path: str | Path, dtype: torch.dtype = torch.float32) -> str:
    """Writes the model as safetensors, tensors stored as `dtype`; returns the file's sha256.

    The model then carries that hash: a config searched for the file deploys on it.
    """
    from safetensors.torch import save

    tensors = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "architecture": json.dumps(model.backbone.config.to_dict()),
        "head": json.dumps(model.describe()),
        "preprocess": json.dumps(model.preprocess.to_dict()),
        "adapted": json.dumps(model.adapted),
    }
    # With the user's own permissions: save_file makes it 0600.
    path = Path(path)
    write_whole(path, save(tensors, metadata))
    model.weights_sha256 = sha256_file(path)
    return model.weights_sha256


def load_model(checkpoint: str | Path, device: str | torch.device = "cpu") -> TaskModel:
    """Loads a task model that `save_model` wrote (or `builtin:digits`): dense, in eval mode, fp32.

    Raises a CheckpointError: UNSAFE, CORRUPT, TOO_LARGE or MISMATCH (no Swin, wrong shapes, NaN).
    Memory is spent on the model only once its tensors are known to be in the file.
    """
    path = checkpoint_path(checkpoint)
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointMismatch(
            f"{path.name} holds no task model of this library (no `format: {FORMAT}` in its "
            "metadata). A bare backbone loads with sparsevit.load_backbone; save a model with its "
            "head by sparsevit.save_model."
        )
    with torch.device("meta"):
        shape = _build(metadata, path.name)
    check_fit(shape, tensors, path.name)
    model = _build(metadata, path.name)
    model.load_state_dict(tensors)
    model.weights_sha256 = sha256_file(path)
    return model.to(device).eval()


def _build(metadata: dict[str, str], name: str) -> TaskModel:
    """The model that the metadata describes, with fresh weights."""
    try:
        parts: dict[str, Any] = {
            key: json.loads(metadata[key])
            for key in ("architecture", "head", "preprocess", "adapted")
        }
        config = SwinConfig.from_dict(parts["architecture"])
        task = task_class(parts["head"]["task"])
        preprocess = _preprocess(parts["preprocess"])
        model = task.from_description(SparseSwin(config), parts["head"], preprocess)
    except (
        ConfigError,
        LookupError,
        ValueError,
        TypeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise CheckpointMismatch(f"the metadata of {name} describes no model: {error}") from error
    if config.in_channels != 3:
        raise CheckpointMismatch(
            f"{name} takes images of {config.in_channels} channels; a task model takes RGB images."
        )
    if not isinstance(parts["adapted"], str | None):
        raise CheckpointMismatch(f"the metadata of {name}: `adapted` is no score's name.")
    model.adapted = parts["adapted"]
    return model


def _preprocess(document: Any) -> Preprocess:
    """ValueError or TypeError where a file gives numbers that no image can be prepared with."""
    if not isinstance(document, dict | None):
        raise TypeError("preprocess is no object.")
    preprocess = Preprocess().updated(document)
    if not all(math.isfinite(value) for value in (*preprocess.mean, *preprocess.std)):
        raise ValueError("preprocess holds NaN or infinite numbers.")
    size = preprocess.resize
    if size is not None and (len(size) != 2 or not all(type(n) is int and n > 0 for n in size)):
        raise ValueError(f"preprocess.resize is {size}; it is [height, width].")
    return preprocess
