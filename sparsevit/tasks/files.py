"""Task models as files: safetensors with everything needed to rebuild the model in the metadata.

The tensors have the names of this library, or, where the weights came from another library's
checkpoint, the names and the layout of that one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsevit.errors import CheckpointMismatch
from sparsevit.opening import open_file
from sparsevit.swin.checkpoints.fitting import check_fit
from sparsevit.swin.checkpoints.folder import Content, read_checkpoint, weight_files
from sparsevit.swin.checkpoints.load import backbone_notes, read_backbone, stated_small_map
from sparsevit.swin.checkpoints.report import LoadReport, some
from sparsevit.swin.checkpoints.translate import default_small_map
from sparsevit.swin.checkpoints.writing import safetensors_bytes, write_whole
from sparsevit.tasks.base import OWN_DIALECT, TaskModel
from sparsevit.tasks.description import Description
from sparsevit.tasks.foreign import BACKBONE, ForeignCheckpoint, ForeignHead, origin_of
from sparsevit.tasks.hub import fetched, is_hub_id
from sparsevit.tasks.preprocessing import read_preprocess
from sparsevit.tasks.registry import task_class, task_names

FORMAT = "sparsevit-1"
FOREIGN_FORMAT = "pt"  # transformers opens no file whose metadata say another
NAMES = "names"  # metadata of a file with another library's names: where its head lies
BUILTIN = {"builtin:digits": Path(__file__).parents[1] / "data" / "digits-supernet.safetensors"}
COUNTER = "num_batches_tracked"  # of batch norms: older files lack it


def checkpoint_path(checkpoint: str | Path) -> Path:
    """Where a checkpoint lies: a path, a built-in name such as `builtin:digits`, or the id of a
    model on the Hugging Face hub such as `microsoft/swin-tiny-patch4-window7-224`, which is fetched.

    A path that exists is never an id. Raises CheckpointError where the hub does not give the model.
    """
    if str(checkpoint) in BUILTIN:
        return BUILTIN[str(checkpoint)]
    return fetched(str(checkpoint)) if is_hub_id(checkpoint) else Path(checkpoint)


def sha256_file(path: str | Path) -> str:
    with open_file(path, CheckpointMismatch) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_weights(path: Path) -> str:
    """The hash of a checkpoint's weights file, or of its shards' hashes together."""
    hashes = [sha256_file(file) for file in weight_files(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def save_model(model: TaskModel, path: str | Path, dtype: torch.dtype = torch.float32) -> str:
    """Writes the model as safetensors, its weights stored as `dtype`; returns the file's sha256.

    Weights out of another library's checkpoint are written by its names and in its layout, so that it
    reads the file, and so does `load_model`, which needs nothing else. The model then carries the
    hash: a config searched for the file deploys on it.
    """
    metadata = {"format": FORMAT} | Description.of(model).metadata()
    tensors = model.state_dict()
    if model.origin is not None:
        metadata |= {"format": FOREIGN_FORMAT, NAMES: json.dumps(dict(model.origin.names))}
        tensors = model.origin.tensors(tensors)
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    path = Path(path)
    # With the user's own permissions: save_file makes it 0600.
    write_whole(path, safetensors_bytes({k: v.contiguous() for k, v in stored.items()}, metadata))
    model.weights_sha256 = sha256_file(path)
    return model.weights_sha256


def load_model(
    checkpoint: str | Path, device: str | torch.device = "cpu", *, task: str | None = None
) -> TaskModel:
    """Loads a task model: dense, in eval mode, fp32.

    checkpoint: what `save_model` wrote, `builtin:digits`, or a checkpoint of another library with its
    head (docs/tasks.md lists them): a file, a model folder, or an id of the Hugging Face hub.
    task: what it is for, where another library's checkpoint does not say (Mask2Former); MISMATCH where
    it is for something else.
    Raises a CheckpointError: UNSAFE, CORRUPT, TOO_LARGE or MISMATCH (no Swin, no head that is known
    here, wrong shapes, NaN). Memory is spent on the model only once its tensors are known to be in
    the file. Warns where the checkpoint's preprocessing cannot be followed exactly.
    """
    path = checkpoint_path(checkpoint)
    content = read_checkpoint(path)
    model = (
        _own(path, content) if content[1].get("format") == FORMAT else _foreign(path, content, task)
    )
    if task not in (None, model.task):
        raise CheckpointMismatch(
            f"the checkpoint is for {model.task}, what is asked for is {task}."
        )
    model.weights_sha256 = sha256_weights(path)
    return model.to(device).eval()


def _own(path: Path, content: Content) -> TaskModel:
    tensors, metadata, _ = content
    described = Description.parsed(metadata, path.name)
    with torch.device("meta"):
        shape = described.build(path.name)
    check_fit(shape, tensors, path.name)
    model = described.build(path.name)
    model.load_state_dict(tensors)
    model.load_report = LoadReport(
        path=str(path),
        dialect=OWN_DIALECT,
        prefix=BACKBONE,
        loaded=len(tensors),
        left={},
        notes=(),
    )
    return model


def _foreign(path: Path, content: Content, task: str | None) -> TaskModel:
    """A model out of another library's checkpoint, or of what save_model wrote in its names."""
    tensors, metadata, config = content
    found, architecture, notes = read_backbone(tensors, path.name, config)
    small_map = stated_small_map(metadata, config, path.name)
    architecture = replace(architecture, small_map=small_map or default_small_map(found))
    checkpoint = ForeignCheckpoint(path.name, tensors, found, architecture.dims[-1], config, task)
    if NAMES in metadata:
        described = Description.parsed(metadata, path.name)
        described = replace(described, architecture=architecture)
        head = ForeignHead(described.head, _names(metadata, path.name), described.out_stages)
    else:
        head = _head_in(checkpoint)
        preprocess, remarks = read_preprocess(path, config, head.preprocess)
        described = Description(architecture, head.out_stages, head.description, preprocess, None)
        notes += remarks
    model, sources = _filled(checkpoint, described, head)
    model.origin = origin_of(checkpoint, sources, head.names)
    model.load_report = LoadReport(
        path=str(path),
        dialect=model.origin.dialect,
        prefix=found.place.prefix,
        loaded=sum(map(len, sources.values())),
        left=_left(found.left, sources),
        notes=notes + backbone_notes(found, architecture, small_map is None),
    )
    return model


def _head_in(checkpoint: ForeignCheckpoint) -> ForeignHead:
    for asked in dict.fromkeys((checkpoint.task, None)):
        for kind in map(task_class, task_names()):
            if asked in (None, kind.task):
                head = kind.head_in(replace(checkpoint, task=asked))
                if head is not None:
                    return head
    title = checkpoint.backbone.place.dialect.title
    raise CheckpointMismatch(
        f"{checkpoint.name} holds a Swin as {title} names it, and no head that is known here "
        "(docs/tasks.md lists them; heads of transformers need the folder with its config.json). For a "
        "bare backbone: sparsevit.load_backbone, put a task's head on it, such as "
        "ClassificationModel(backbone, class_names), train it (sparsevit.train), and write it by "
        "sparsevit.save_model."
    )


def _filled(
    checkpoint: ForeignCheckpoint, described: Description, head: ForeignHead
) -> tuple[TaskModel, dict[str, tuple[str, ...]]]:
    """The described model with the checkpoint's weights, and which of its tensors each is made of."""
    found, tensors, name = checkpoint.backbone, checkpoint.tensors, checkpoint.name
    with torch.device("meta"):
        shape = described.build(name)
    expected = shape.state_dict()
    ours: dict[str, Tensor] = {}
    sources: dict[str, tuple[str, ...]] = {}
    for key in expected:
        part = key.removeprefix(BACKBONE)
        if part != key and part in found.own:
            ours[key], sources[key] = found.own[part], found.sources[part]
        elif (theirs := head.theirs(key)) in tensors:
            ours[key], sources[key] = tensors[theirs], (theirs,)
    _check_whole(checkpoint, head, sources)

    def shown(key: str) -> str:
        part = key.removeprefix(BACKBONE)
        return found.theirs(part) if part != key else head.theirs(key) or key

    counters = {key for key in expected if key.endswith(COUNTER)}
    check_fit(shape, ours, name, counters, shown)
    model = described.build(name)
    model.load_state_dict(model.state_dict() | ours)
    return model, sources


def _check_whole(
    checkpoint: ForeignCheckpoint, head: ForeignHead, sources: Mapping[str, tuple[str, ...]]
) -> None:
    """The head would compute something else without some of its tensors."""
    used = {key for keys in sources.values() for key in keys}
    begins = tuple(head.names.values())
    unknown = [key for key in checkpoint.tensors if key.startswith(begins) and key not in used]
    if unknown:
        raise CheckpointMismatch(
            f"{checkpoint.name} has tensors in its head that this model has no place for: "
            f"{some(unknown)}."
        )


def _left(
    left: Mapping[str, tuple[str, ...]], sources: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """What neither backbone nor head took, by reason."""
    used = {key for keys in sources.values() for key in keys}
    rest = {reason: tuple(k for k in keys if k not in used) for reason, keys in left.items()}
    return {reason: keys for reason, keys in rest.items() if keys}


def _names(metadata: Mapping[str, str], name: str) -> dict[str, str]:
    try:
        names: Any = json.loads(metadata[NAMES])
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, dict) or not all(isinstance(v, str) and v for v in names.values()):
        raise CheckpointMismatch(f"the metadata of {name}: `{NAMES}` maps no names to names.")
    return names
