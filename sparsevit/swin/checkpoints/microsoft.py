"""The original naming, which is also ours: `layers.0.blocks.0.attn.qkv.weight`.

Read from files of the original code (`model.` outside), detection ports (`backbone.`) and our own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.swin.checkpoints.fitting import check_fit
from sparsevit.swin.checkpoints.reading import read_tensors
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

PREFIXES = ("", "model.", "backbone.", "model.backbone.", "state_dict.", "state_dict.backbone.")
ANCHOR = "patch_embed.proj.weight"
# Follow from the architecture; older files carry them, newer ones do not.
DERIVED = re.compile(r"(relative_position_index|attn_mask)$")
BLOCK = re.compile(r"layers\.(\d{1,3})\.blocks\.(\d{1,3})\.")
# What belongs to a backbone; all else is a head, an optimiser, or another part of a larger model.
BACKBONE = re.compile(r"patch_embed\.|layers\.|norm\d*\.|absolute_pos_embed")
OUTPUT_NORM = re.compile(r"norm\d+\.(weight|bias)$")
OTHER_NAMINGS = {
    "Hugging Face": re.compile(r"encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.query"),
    "torchvision": re.compile(r"features\.\d+\.\d+\.attn\."),
    "OpenMMLab": re.compile(r"stages\.\d+\.blocks\.\d+\.attn\.w_msa\."),
}


def load_backbone(path: str | Path) -> SparseSwin:
    """A bare backbone, its architecture inferred from the tensors: dense, in eval mode, fp32.

    Heads and other parts outside the backbone are left out. Of the backbone nothing is: a tensor
    that has no place in this Swin (LayerScale, absolute positions) is a CheckpointMismatch, since
    the network would compute something else without it. The final norm of a classifier becomes the
    last stage's output norm; output norms that the file lacks start as the identity.
    Raises CheckpointMismatch when the file holds no Swin in this naming.
    """
    tensors, _ = read_tensors(path)
    name = Path(path).name
    prefix = next((p for p in PREFIXES if p + ANCHOR in tensors), None)
    if prefix is None:
        raise CheckpointMismatch(_other_naming(tensors, name))
    own = {
        key[len(prefix) :]: value
        for key, value in tensors.items()
        if key.startswith(prefix) and BACKBONE.match(key, len(prefix)) and not DERIVED.search(key)
    }
    config = infer_config(own, name)
    _move_final_norm(own, len(config.depths) - 1)
    with torch.device("meta"):
        shape = SparseSwin(config)
    optional = [key for key in shape.state_dict() if OUTPUT_NORM.match(key)]
    check_fit(shape, own, name, optional)
    model = SparseSwin(config)
    model.load_state_dict(model.state_dict() | own)
    return model.eval()


def infer_config(tensors: dict[str, Tensor], name: str) -> SwinConfig:
    """The architecture that the tensors' names and shapes imply."""
    blocks = {tuple(map(int, m.groups())) for key in tensors if (m := BLOCK.match(key))}
    if not blocks:
        raise CheckpointMismatch(f"{name} holds a patch embedding but no Swin blocks.")
    counts = Counter(stage for stage, _ in blocks)
    stages = max(counts) + 1
    try:
        tables = [
            tensors[f"layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(stages)
        ]
        embed = tensors[ANCHOR]
        hidden = tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[0]
        return SwinConfig(
            in_channels=embed.shape[1],
            patch_size=embed.shape[2],
            embed_dim=embed.shape[0],
            depths=tuple(counts[i] for i in range(stages)),
            num_heads=tuple(table.shape[1] for table in tables),
            window_size=(math.isqrt(tables[0].shape[0]) + 1) // 2,
            mlp_ratio=hidden / embed.shape[0],
            qkv_bias="layers.0.blocks.0.attn.qkv.bias" in tensors,
        )
    except (KeyError, IndexError, ValueError, ArithmeticError, ConfigError) as error:
        raise CheckpointMismatch(f"{name} looks like a Swin, but is none: {error}") from error


def _move_final_norm(tensors: dict[str, Tensor], last: int) -> None:
    for part in ("weight", "bias"):
        if f"norm.{part}" in tensors and f"norm{last}.{part}" not in tensors:
            tensors[f"norm{last}.{part}"] = tensors.pop(f"norm.{part}")


def _other_naming(tensors: dict[str, Tensor], name: str) -> str:
    for dialect, pattern in OTHER_NAMINGS.items():
        if any(pattern.search(key) for key in tensors):
            return (
                f"{name} looks like a Swin in the naming of {dialect}. This version reads the "
                "original naming only (`layers.0.blocks.0.attn.qkv.weight`): rename its tensors."
            )
    return (
        f"{name} holds no Swin backbone in the original naming (no `{ANCHOR}`). Its first "
        f"tensors are {', '.join(sorted(tensors)[:3])}."
    )
