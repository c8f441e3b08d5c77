"""The original naming, which is also ours: `layers.0.blocks.0.attn.qkv.weight`.

Read from files of the original code (`model.` outside), detection ports (`backbone.`) and our own.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.reading import read_tensors
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

PREFIXES = ("", "model.", "backbone.", "model.backbone.", "state_dict.", "state_dict.backbone.")
ANCHOR = "patch_embed.proj.weight"
# Follow from the architecture; older files carry them, newer ones do not.
DERIVED = re.compile(r"(relative_position_index|attn_mask)$")
BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.")


def load_backbone(path: str | Path) -> SparseSwin:
    """A bare backbone, its architecture inferred from the tensors: dense, in eval mode, fp32.

    Heads and other parts of the file are left out. Output norms that the file lacks (files of
    classifiers have one for the last stage only) start as the identity.
    Raises CheckpointMismatch when the file holds no Swin in this naming.
    """
    tensors, _ = read_tensors(path)
    name = Path(path).name
    prefix = next((p for p in PREFIXES if p + ANCHOR in tensors), None)
    if prefix is None:
        raise CheckpointMismatch(
            f"{name} holds no Swin backbone in the original naming (no `{ANCHOR}`). Its first "
            f"tensors are {', '.join(sorted(tensors)[:3])}."
        )
    own = {
        key[len(prefix) :]: value.float()
        for key, value in tensors.items()
        if key.startswith(prefix) and not DERIVED.search(key)
    }
    model = SparseSwin(infer_config(own, name))
    _fill(model, own, name)
    return model.eval()


def infer_config(tensors: dict[str, Tensor], name: str) -> SwinConfig:
    """The architecture that the tensors' names and shapes imply."""
    blocks = {tuple(map(int, m.groups())) for key in tensors if (m := BLOCK.match(key))}
    if not blocks:
        raise CheckpointMismatch(f"{name} holds a patch embedding but no Swin blocks.")
    stages = max(stage for stage, _ in blocks) + 1
    depths = tuple(sum(stage == i for stage, _ in blocks) for i in range(stages))
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
            depths=depths,
            num_heads=tuple(table.shape[1] for table in tables),
            window_size=(math.isqrt(tables[0].shape[0]) + 1) // 2,
            mlp_ratio=hidden / embed.shape[0],
            qkv_bias="layers.0.blocks.0.attn.qkv.bias" in tensors,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointMismatch(f"{name} looks like a Swin, but is none: {error}.") from error


def _fill(model: SparseSwin, tensors: dict[str, Tensor], name: str) -> None:
    expected = model.state_dict()
    missing = [k for k in expected if k not in tensors and not re.match(r"norm\d", k)]
    wrong = [k for k in expected if k in tensors and tensors[k].shape != expected[k].shape]
    broken = [k for k in expected if k in tensors and not torch.isfinite(tensors[k]).all()]
    if missing or wrong:
        raise CheckpointMismatch(f"{name} does not fit a Swin: {(missing + wrong)[:3]}.")
    if broken:
        raise CheckpointMismatch(f"{name}: {broken[0]} holds NaN or infinite weights.")
    model.load_state_dict({k: tensors.get(k, v) for k, v in expected.items()})
