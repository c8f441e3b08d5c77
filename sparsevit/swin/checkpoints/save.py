"""A backbone written back in a dialect of the user's choice."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sparsevit.errors import ConfigError
from sparsevit.swin.checkpoints.dialect import POSITIONS, Dialect, fill, our_keys
from sparsevit.swin.checkpoints.reading import SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from sparsevit.swin.checkpoints.recognise import DIALECTS, Place, find
from sparsevit.swin.checkpoints.translate import LEAVES, default_small_map, translate
from sparsevit.swin.checkpoints.writing import safetensors_bytes, write_whole
from sparsevit.swin.model import SparseSwin


def save_backbone(
    model: SparseSwin, path: str | Path, *, dialect: str = "microsoft", prefix: str = ""
) -> None:
    """Writes the backbone as `.safetensors`, or as `.pth`, `.pt` or `.bin` by torch.save.

    dialect, prefix: as in `model.load_report` for the names it came with; see
    `backbone_to_tensors`. The file is written whole or not at all. A torch file cannot state
    small_map: a UserWarning says so where reading it again would take another.
    """
    path = Path(path)
    tensors = backbone_to_tensors(model, dialect=dialect, prefix=prefix)
    if path.suffix == SAFETENSORS_SUFFIX:
        # transformers opens no file whose metadata lacks the format.
        metadata = {"format": "pt", "architecture": json.dumps(model.config.to_dict())}
        raw = safetensors_bytes(tensors, metadata)
    elif path.suffix in TORCH_SUFFIXES:
        _warn_of_small_map(tensors, path.name, model.config.small_map)
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        raw = buffer.getvalue()
    else:
        raise ConfigError(
            f"{path.name} ends in none of {(SAFETENSORS_SUFFIX, *TORCH_SUFFIXES)}: which format is it?"
        )
    write_whole(path, raw)


def _warn_of_small_map(tensors: Mapping[str, Tensor], name: str, small_map: str) -> None:
    place, _ = find(tensors, name)
    read_as = default_small_map(translate(tensors, place, name))
    if read_as != small_map:
        warnings.warn(
            f"{name} does not say that small maps are treated as {small_map!r}: read it by "
            f"load_backbone(path, small_map={small_map!r}) (it would take {read_as!r}), or write "
            f"{SAFETENSORS_SUFFIX}.",
            UserWarning,
            stacklevel=3,
        )


def backbone_to_tensors(
    model: SparseSwin, *, dialect: str = "microsoft", prefix: str = ""
) -> dict[str, Tensor]:
    """The backbone's weights, on the CPU, by the names and in the layout of a dialect.

    prefix: what to put before each name, such as `backbone.`.
    With small_map "shift" the norms of all stages are written. Otherwise those that are untrained
    are not, since reading fills them in, and a model with the last one only gets the final norm of
    a classifier. ConfigError where the dialect has no place for a part.
    """
    table = _dialect(dialect)
    if prefix and not prefix.endswith("."):
        raise ConfigError(f"the prefix {prefix!r} does not end with a dot.")
    state = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
    written: dict[str, Tensor] = {}
    for ours in our_keys(model.config.depths):
        if ours in state:
            theirs = table.write(ours, state[ours])
            written |= {prefix + key: tensor for key, tensor in theirs.items()}
    norms, last = _norms_to_write(model, state), len(model.config.depths) - 1
    classifier = norms == [last] and model.config.small_map != "shift"
    written |= _norms(Place(table, prefix), state, norms, last, classifier)
    if POSITIONS in state:
        written |= _positions(table, state[POSITIONS], classifier, prefix)
    # Copies: pieces of one tensor share its memory, which no file format takes.
    return {
        key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in written.items()
    }


def _dialect(name: str) -> Dialect:
    if name not in DIALECTS:
        raise ConfigError(f"there is no dialect {name!r}; it is one of {tuple(DIALECTS)}.")
    return DIALECTS[name]


def _norms_to_write(model: SparseSwin, state: dict[str, Tensor]) -> list[int]:
    """Stages whose output norm a file must hold to be read back as the same network."""
    last = len(model.config.depths) - 1
    stages = [i for i in range(last + 1) if f"norm{i}.weight" in state]
    if model.config.small_map == "shift":
        return stages
    return [i for i in stages if i == last or not _is_untrained(state, f"norm{i}")]


def _is_untrained(state: dict[str, Tensor], norm: str) -> bool:
    return bool((state[f"{norm}.weight"] == 1).all() and (state[f"{norm}.bias"] == 0).all())


def _norms(
    place: Place, state: dict[str, Tensor], stages: list[int], last: int, classifier: bool
) -> dict[str, Tensor]:
    """The norms of these stages, in the form of a classifier or of a backbone."""
    table = place.dialect
    modules: dict[int, str] = {}
    if table.stage_norm is not None and not classifier:
        modules = {stage: place.stage_norm(stage) for stage in stages}
    elif table.final_norms and last in stages:
        modules = {last: place.prefix + fill(table.final_norms[0], last)}
    lost = [i for i in stages if i not in modules and not _is_untrained(state, f"norm{i}")]
    if lost:
        numbers = ", ".join(str(i + 1) for i in lost)
        raise ConfigError(
            f"{table.title} has no output norm for stages {numbers}, and those of this model are "
            "trained: write another dialect."
        )
    return {
        f"{module}.{leaf}": state[f"norm{stage}.{leaf}"]
        for stage, module in modules.items()
        for leaf in LEAVES
    }


def _positions(
    table: Dialect, positions_1CHW: Tensor, classifier: bool, prefix: str
) -> dict[str, Tensor]:
    if not table.positions:
        raise ConfigError(f"{table.title} has no absolute positions: write another dialect.")
    rows, columns = positions_1CHW.shape[-2:]
    square = rows == columns
    if table.grid_positions and not (classifier and square):
        return {prefix + table.positions[0]: positions_1CHW}
    if not square:
        raise ConfigError(
            f"{table.title} stores absolute positions as a list, which loses that they fill {rows} "
            f"rows and {columns} columns: write another dialect."
        )
    return {prefix + table.positions[0]: positions_1CHW.flatten(2).transpose(1, 2)}
