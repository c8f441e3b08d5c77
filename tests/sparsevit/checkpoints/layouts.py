"""Files of code that does not install: their names written out beside those of transformers.

The weights, and the features to compare with, are those of a transformers SwinBackbone. Left: its
names in memory; then those of the original code, and of OpenMMLab.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PATCH = """
embeddings.patch_embeddings.projection   patch_embed.proj   patch_embed.projection
embeddings.norm                          patch_embed.norm   patch_embed.norm
"""
BLOCK = """
layernorm_before     norm1      norm1
attention.o_proj     attn.proj  attn.w_msa.proj
layernorm_after      norm2      norm2
mlp.fc1              mlp.fc1    ffn.layers.0.0
mlp.fc2              mlp.fc2    ffn.layers.1
"""
TABLE = """
attention.relative_position_bias.relative_position_bias_table
attn.relative_position_bias_table
attn.w_msa.relative_position_bias_table
"""
QKV = ("attn.qkv", "attn.w_msa.qkv")
STAGES = ("layers", "stages")
MICROSOFT, OPENMMLAB = 0, 1


def tensors(backbone: nn.Module, family: int) -> dict[str, Tensor]:
    """A transformers SwinBackbone's weights by the names of a family, with a norm a stage."""
    theirs = {k.removeprefix("swin."): v for k, v in backbone.state_dict().items()}
    named: dict[str, Tensor] = {}

    def module(here: str, there: str) -> None:
        for leaf in ("weight", "bias"):
            if f"{here}.{leaf}" in theirs:
                named[f"{there}.{leaf}"] = theirs[f"{here}.{leaf}"]

    for row in PATCH.split("\n")[1:-1]:
        module(row.split()[0], row.split()[1 + family])
    for stage, depth in enumerate(backbone.config.depths):
        place = f"{STAGES[family]}.{stage}"
        for block in range(depth):
            here, there = f"encoder.layers.{stage}.blocks.{block}", f"{place}.blocks.{block}"
            for row in BLOCK.split("\n")[1:-1]:
                module(f"{here}.{row.split()[0]}", f"{there}.{row.split()[1 + family]}")
            table = TABLE.split()
            named[f"{there}.{table[1 + family]}"] = theirs[f"{here}.{table[0]}"]
            for leaf in ("weight", "bias"):
                parts = [theirs[f"{here}.attention.{p}_proj.{leaf}"] for p in "qkv"]
                named[f"{there}.{QKV[family]}.{leaf}"] = torch.cat(parts)
        for part in ("norm", "reduction"):
            module(f"encoder.layers.{stage}.downsample.{part}", f"{place}.downsample.{part}")
        module(f"hidden_states_norms.stage{stage + 1}", f"norm{stage}")
    positions = theirs.get("embeddings.position_embeddings")
    return named if positions is None else named | {"absolute_pos_embed": positions}


def buffers(window: int = 7) -> dict[str, Tensor]:
    """What files of the original code carry besides weights."""
    tokens = window**2
    return {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(tokens, tokens).long(),
        "layers.0.blocks.1.attn_mask": torch.zeros(16, tokens, tokens),
    }


class UnfoldMerging(nn.Module):
    """OpenMMLab's patch merging: nn.Unfold, then norm and reduction."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sampler = nn.Unfold(kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x_BLC: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = size
        x_BCHW = x_BLC.transpose(1, 2).unflatten(2, (height, width))
        x_BCHW = nn.functional.pad(x_BCHW, (0, width % 2, 0, height % 2))
        return self.reduction(self.norm(self.sampler(x_BCHW).transpose(1, 2)))


def with_unfold_merging(backbone: nn.Module) -> nn.Module:
    """The backbone with patch merging as OpenMMLab computes it."""
    for stage, layer in enumerate(backbone.swin.encoder.layers):
        if layer.downsample is not None:
            layer.downsample = UnfoldMerging(backbone.config.embed_dim * 2**stage)
    return backbone
