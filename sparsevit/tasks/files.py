"""Task models as files: safetensors with everything needed to rebuild the model in the metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsevit.data.base import Preprocess
from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.reading import read_tensors
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.semantic import SegmentationModel

FORMAT = "sparsevit-1"
TASKS = {SegmentationModel.task: SegmentationModel}
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
    # Written whole or not at all, and with the user's own permissions (save_file makes it 0600).
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(save(tensors, metadata))
    part.replace(path)
    model.weights_sha256 = sha256_file(path)
    return model.weights_sha256


def load_model(checkpoint: str | Path, device: str | torch.device = "cpu") -> TaskModel:
    """Loads a task model that `save_model` wrote (or `builtin:digits`): dense, in eval mode, fp32.

    Raises a CheckpointError: UNSAFE, CORRUPT, TOO_LARGE or MISMATCH (no Swin, wrong shapes, NaN).
    """
    path = checkpoint_path(checkpoint)
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointMismatch(
            f"{path.name} holds no task model of this library (no `format: {FORMAT}` in its "
            "metadata). A bare backbone loads with sparsevit.load_backbone; save a model with its "
            "head by sparsevit.save_model."
        )
    model = _build(metadata, path.name)
    fill(model, tensors, path.name)
    model.weights_sha256 = sha256_file(path)
    return model.to(device).eval()


def _build(metadata: dict[str, str], name: str) -> TaskModel:
    try:
        parts: dict[str, Any] = {
            key: json.loads(metadata[key])
            for key in ("architecture", "head", "preprocess", "adapted")
        }
        task = TASKS[parts["head"]["task"]]
        backbone = SparseSwin(SwinConfig.from_dict(parts["architecture"]))
        preprocess = Preprocess().updated(parts["preprocess"])
        model = task.from_description(backbone, parts["head"], preprocess)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointMismatch(f"the metadata of {name} describes no model: {error}") from error
    model.adapted = parts["adapted"]
    return model


def fill(model: torch.nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Copies tensors into the model; every parameter must be there, finite, and of its shape."""
    expected = model.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointMismatch(
            f"{name} does not fit its architecture: missing {missing[:3]}, unknown {unknown[:3]}."
        )
    for key, target in expected.items():
        tensor = tensors[key]
        if tensor.shape != target.shape:
            raise CheckpointMismatch(
                f"{name}: {key} is {list(tensor.shape)}, the architecture needs {list(target.shape)}."
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointMismatch(f"{name}: {key} holds NaN or infinite weights.")
    model.load_state_dict(tensors)
