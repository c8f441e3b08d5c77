"""A backbone out of a checkpoint in any dialect; see docs/checkpoints.md."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.swin.checkpoints import huggingface
from sparsevit.swin.checkpoints.dialect import POSITIONS, TABLE
from sparsevit.swin.checkpoints.fitting import check_fit
from sparsevit.swin.checkpoints.folder import read_checkpoint
from sparsevit.swin.checkpoints.recognise import find
from sparsevit.swin.checkpoints.report import LoadReport
from sparsevit.swin.checkpoints.translate import LEAVES, Translation, default_small_map, translate
from sparsevit.swin.config import SMALL_MAPS, SwinConfig
from sparsevit.swin.model import SparseSwin


def load_backbone(
    path: str | Path, *, window_size: int | None = None, small_map: str | None = None
) -> SparseSwin:
    """A bare backbone out of a file or a model folder: dense, in eval mode, fp32.

    Its dialect is recognised and its architecture inferred from the tensors. Heads and other parts
    outside the backbone are left; `model.load_report` says what was loaded, what was left and why.
    Of the backbone nothing is left: a tensor that has no place in this Swin (LayerScale) is an
    error.

    window_size: another than the file's; the bias tables are resized bicubically, with a
    UserWarning. small_map: what happens to maps no larger than a window, one of SMALL_MAPS; as the
    library that the file comes from does by default.
    Raises a CheckpointError (UNSAFE, CORRUPT, TOO_LARGE, or MISMATCH: no Swin, or not all of one),
    and ConfigError for arguments that fit no Swin.
    """
    path = Path(path)
    tensors, metadata, config = read_checkpoint(path)
    model = backbone_from_tensors(
        tensors,
        path.name,
        window_size=window_size,
        small_map=small_map or stated_small_map(metadata, config, path.name),
        config=config,
    )
    model.load_report = replace(model.load_report, path=str(path))
    return model


def backbone_from_tensors(
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    window_size: int | None = None,
    small_map: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> SparseSwin:
    """A backbone out of a state dict in any dialect: dense, in eval mode, fp32, on the CPU.

    name: what messages call the tensors. config: the content of a Hugging Face config.json.
    All else, and what is raised, as for `load_backbone`.
    """
    found, stored, notes = read_backbone(tensors, name, config)
    lacking = [i for i in range(len(stored.depths)) if i not in found.normed]
    optional = [f"norm{i}.{leaf}" for i in lacking for leaf in LEAVES]
    with torch.device("meta"):
        shape = SparseSwin(stored)
    check_fit(shape, found.own, name, optional, shown=found.theirs)
    chosen = replace(
        stored,
        window_size=stored.window_size if window_size is None else window_size,
        small_map=default_small_map(found) if small_map is None else small_map,
    )
    if chosen.window_size != stored.window_size:
        _resize_tables(found.own, chosen.window_size)
        notes += (_warn_of_window(name, stored.window_size, chosen.window_size),)
    model = SparseSwin(chosen)
    model.load_state_dict(model.state_dict() | found.own)
    notes += _norm_notes(found, lacking) + backbone_notes(found, chosen, small_map is None)
    model.load_report = _report(found, name, notes)
    return model.eval()


def read_backbone(
    tensors: Mapping[str, Tensor], name: str, config: Mapping[str, Any] | None = None
) -> tuple[Translation, SwinConfig, tuple[str, ...]]:
    """The backbone's tensors by our names, its architecture but for small_map, notes on the choice.

    Nothing is compared yet: `check_fit` is for that. Arguments and errors as of
    `backbone_from_tensors`.
    """
    place, notes = find(tensors, name)
    grid = None
    if config is not None and place.dialect.name in huggingface.NAMES:
        grid = huggingface.check_config(config, name)
    found = translate(tensors, place, name, grid)
    return found, infer_config(found, name), notes


def infer_config(found: Translation, name: str) -> SwinConfig:
    """The architecture that the tensors' names and shapes imply; small_map is left at its default."""
    own, stages = found.own, range(len(found.depths))
    try:
        embed = own["patch_embed.proj.weight"]
        dims = [embed.shape[0] * 2**i for i in stages]
        tables = [own[f"layers.{i}.blocks.0.{TABLE}"] for i in stages]
        positions = own.get(POSITIONS)
        return SwinConfig(
            in_channels=embed.shape[1],
            patch_size=embed.shape[2],
            embed_dim=embed.shape[0],
            depths=found.depths,
            num_heads=tuple(table.shape[1] for table in tables),
            window_size=_window(tables, name),
            mlp_ratio=_ratio(own, dims),
            qkv_bias="layers.0.blocks.0.attn.qkv.bias" in own,
            absolute_positions=None if positions is None else tuple(positions.shape[-2:]),
        )
    except KeyError as error:
        raise CheckpointMismatch(
            f"{name} looks like a Swin, but lacks {found.theirs(error.args[0])}."
        ) from error
    except (IndexError, ValueError, ArithmeticError, ConfigError) as error:
        raise CheckpointMismatch(f"{name} looks like a Swin, but is none: {error}") from error


def _window(tables: list[Tensor], name: str) -> int:
    """The side of the windows that all bias tables [(2 side - 1) ** 2, heads] are for."""
    sides = [(math.isqrt(table.shape[0]) + 1) // 2 for table in tables]
    rows = [table.shape[0] for table in tables]
    if any((2 * side - 1) ** 2 != count for side, count in zip(sides, rows, strict=True)):
        raise CheckpointMismatch(f"{name} has windows that are not square (bias tables of {rows}).")
    if len(set(sides)) > 1:
        raise CheckpointMismatch(
            f"{name} has windows of {sides} in its stages; this Swin has windows of one size. (timm "
            "shrinks the windows of stages whose map is smaller: save the model as it was built for "
            "its training resolution. swin_s3 models are not supported.)"
        )
    return sides[0]


def _ratio(own: Mapping[str, Tensor], dims: Sequence[int]) -> float:
    """A ratio such that int(dim * ratio) is the width of the MLP in every stage.

    Each stage allows [hidden / dim, (hidden + 1) / dim): the largest lower end is in all of them.
    """
    hidden = [own[f"layers.{i}.blocks.0.mlp.fc1.weight"].shape[0] for i in range(len(dims))]
    dim, width = max(zip(dims, hidden, strict=True), key=lambda stage: stage[1] / stage[0])
    ratio = width / dim
    return ratio if int(dim * ratio) == width else math.nextafter(ratio, math.inf)


def _resize_tables(own: dict[str, Tensor], window_size: int) -> None:
    """Bias tables [(2w - 1) ** 2, heads] for another window, bicubically, as Swin's authors do."""
    side = 2 * window_size - 1
    for key, table in own.items():
        if key.endswith(TABLE):
            old = math.isqrt(table.shape[0])
            image = table.float().T.reshape(1, -1, old, old)
            resized = F.interpolate(image, size=(side, side), mode="bicubic", align_corners=False)
            own[key] = resized.flatten(2)[0].T


def _warn_of_window(name: str, old: int, new: int) -> str:
    text = (
        f"The bias tables of {name} were resized bicubically from windows of {old} to {new}: the "
        "network is another one now, and loses accuracy until it is trained again."
    )
    warnings.warn(text, UserWarning, stacklevel=4)
    return text


def stated_small_map(
    metadata: Mapping[str, str], config: Mapping[str, Any] | None, name: str
) -> str | None:
    """What save_backbone, save_model and SparseSwinConfig wrote of it: tensors cannot tell."""
    document: Any = {}
    if "architecture" in metadata:
        try:
            document = json.loads(metadata["architecture"])
        except (ValueError, RecursionError) as error:
            raise CheckpointMismatch(
                f"the architecture in {name}'s metadata is no JSON."
            ) from error
    elif config is not None:
        document = config.get("backbone_config") or config
    small_map = document.get("small_map") if isinstance(document, Mapping) else None
    if small_map is not None and small_map not in SMALL_MAPS:
        raise CheckpointMismatch(f"{name} states a small_map of none of {SMALL_MAPS}.")
    return small_map


def _norm_notes(found: Translation, lacking: list[int]) -> tuple[str, ...]:
    notes: list[str] = []
    if found.single_norm and not found.place.dialect.alike:
        notes.append(f"Its final norm became the output norm of stage {len(found.depths)}.")
    if lacking:
        stages = ", ".join(str(stage + 1) for stage in lacking)
        notes.append(f"It has no output norm for stages {stages}: there it starts untrained.")
    return tuple(notes)


def backbone_notes(found: Translation, config: SwinConfig, by_default: bool) -> tuple[str, ...]:
    """by_default: whether nobody said what happens to small maps."""
    notes: list[str] = []
    if found.place.dialect.unfold_merge:
        notes.append("Its patch merging was reordered from the order of nn.Unfold.")
    if config.absolute_positions is not None:
        rows, columns = config.absolute_positions
        notes.append(f"Its absolute positions ({rows} x {columns}) are resized to other images.")
    why = f", as {found.place.dialect.title} does with such files" if by_default else ""
    notes.append(f"Maps no larger than a window: {config.small_map}{why}.")
    return tuple(notes)


def _report(found: Translation, name: str, notes: tuple[str, ...]) -> LoadReport:
    return LoadReport(
        path=name,
        dialect=found.place.dialect.name,
        prefix=found.place.prefix,
        loaded=sum(len(keys) for keys in found.sources.values()),
        left=found.left,
        notes=notes,
    )
