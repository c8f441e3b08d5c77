"""A narrower Swin out of a trained one: channels are cut out of its weights (the paper's W rows).

Structured pruning: every stage keeps a share of its channels, each head the same share of its own, the
MLP the same share of its hidden ones; how many heads there are does not change. The channels kept are
those whose filters have the largest L1 norm (Li et al., ICLR 2017, arXiv 1608.08710). What is cut out
still has to be fine-tuned.

The paper does not say how it rounds widths. The MACs of its W0.6 and W0.4 (Swin-T) fit 60 and 36
channels, which is what `narrow_config` gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from sparsevit.errors import ConfigError
from sparsevit.swin.attention import WindowAttention
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.layers import SwinBlock
from sparsevit.swin.model import SparseSwin

RULES = ("l1", "first")
HEAD_UNIT = 4
"""The channels of a head come in fours: kernels handle odd numbers badly."""

Indices = tuple[Tensor | None, ...]
"""What is taken along each dimension of a tensor; None, or a dimension not named: all of it."""


@dataclass(frozen=True)
class Narrowed:
    """backbone: the narrow one, dense. channels: of each stage of the wide one those that it kept,
    rising."""

    backbone: SparseSwin
    channels: tuple[Tensor, ...]


def narrow_config(config: SwinConfig, share: float) -> SwinConfig:
    """The architecture at about this share of its width: heads of whole HEAD_UNITs of channels, and
    as many heads as before. ConfigError unless the share is above 0 and at most 1."""
    if not 0 < share <= 1:
        raise ConfigError(f"a width of {share!r} is none: give a share above 0, up to 1.")
    if share == 1:
        return config
    unit = HEAD_UNIT * math.lcm(
        *(heads // math.gcd(heads, 2**stage) for stage, heads in enumerate(config.num_heads))
    )
    dim = max(1, round(config.embed_dim * share / unit)) * unit
    return replace(config, embed_dim=min(dim, config.embed_dim))


@torch.no_grad()
def narrowed(backbone: SparseSwin, share: float, rule: str = "l1") -> Narrowed:
    """Cuts a backbone of about this share of the width out of another, whose weights stay as they are.

    rule: which channels are kept; "l1": of the largest norm, "first": simply the first.
    """
    if rule not in RULES:
        raise ConfigError(f"channels are kept by one of {', '.join(RULES)}, not {rule!r}.")
    config = narrow_config(backbone.config, share)
    channels = tuple(
        _kept(_channel_norms(backbone, stage), dim, rule) for stage, dim in enumerate(config.dims)
    )
    taken = _outside_blocks(backbone, channels)
    for stage, layer in enumerate(backbone.layers):
        for index, block in enumerate(layer.blocks):
            parts = _in_block(block, channels[stage], config, stage, rule)
            taken |= {f"layers.{stage}.blocks.{index}.{k}": v for k, v in parts.items()}
    wide = backbone.state_dict()
    narrow = SparseSwin(config, backbone.out_stages).to(next(iter(wide.values())))
    narrow.load_state_dict({k: take(v, taken.get(k, ())) for k, v in wide.items()})
    return Narrowed(narrow.train(backbone.training), channels)


def take(tensor: Tensor, indices: Indices) -> Tensor:
    """The given entries along the first dimensions."""
    for dim, index in enumerate(indices):
        if index is not None:
            tensor = tensor.index_select(dim, index)
    return tensor


def _kept(norms: Tensor, count: int, rule: str) -> Tensor:
    """Indices along the last dimension, rising; of equal norms the first."""
    if rule == "first":
        return torch.arange(count, device=norms.device).expand(*norms.shape[:-1], count)
    order = norms.sort(dim=-1, descending=True, stable=True).indices
    return order[..., :count].sort(dim=-1).values


def _channel_norms(backbone: SparseSwin, stage: int) -> Tensor:
    """Per channel of a stage the L1 norm of all filters that write it, [C]."""
    before = backbone.layers[stage - 1].downsample.reduction if stage else backbone.patch_embed.proj
    writers = [before.weight]
    for block in backbone.layers[stage].blocks:
        writers += [block.attn.proj.weight, block.mlp.fc2.weight]
    return sum(weight.float().abs().flatten(1).sum(1) for weight in writers)


def _outside_blocks(backbone: SparseSwin, channels: Sequence[Tensor]) -> dict[str, Indices]:
    """Embedding, merges and output norms."""
    first = channels[0]
    parts = ("proj.weight", "proj.bias", "norm.weight", "norm.bias")
    found: dict[str, Indices] = {f"patch_embed.{part}": (first,) for part in parts}
    found["patch_embed.absolute_pos_embed"] = (None, first)
    for stage, (here, above) in enumerate(pairwise(channels)):
        width = backbone.config.dims[stage]
        merged = torch.cat([quad * width + here for quad in range(4)])  # 2 x 2 tokens, one by one
        place = f"layers.{stage}.downsample"
        found |= {f"{place}.norm.weight": (merged,), f"{place}.norm.bias": (merged,)}
        found[f"{place}.reduction.weight"] = (above, merged)
    for stage in backbone.out_stages:
        found |= {f"norm{stage}.{part}": (channels[stage],) for part in ("weight", "bias")}
    return found


def _in_block(
    block: SwinBlock, channels: Tensor, config: SwinConfig, stage: int, rule: str
) -> dict[str, Indices]:
    """config: of the narrow backbone."""
    dim = config.dims[stage]
    qkv, values = _in_heads(block.attn, dim // config.num_heads[stage], rule)
    hidden = _kept(block.mlp.fc1.weight.float().abs().sum(1), int(dim * config.mlp_ratio), rule)
    norms = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
    return {
        **dict.fromkeys(norms, (channels,)),
        "attn.qkv.weight": (qkv, channels),
        "attn.qkv.bias": (qkv,),
        "attn.proj.weight": (channels, values),
        "attn.proj.bias": (channels,),
        "mlp.fc1.weight": (hidden, channels),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (channels, hidden),
        "mlp.fc2.bias": (channels,),
    }


def _in_heads(attention: WindowAttention, count: int, rule: str) -> tuple[Tensor, Tensor]:
    """Rows of qkv, and columns of proj, that are kept: `count` channels of each head. Query and key
    lose the same ones, since they meet in a product."""
    weight = attention.qkv.weight.float().abs().sum(1)
    norms = weight.view(3, attention.heads, -1)  # [query key value, heads, d]
    width = norms.shape[-1]
    starts = torch.arange(attention.heads, device=weight.device)[:, None] * width
    meeting = (_kept(norms[0] + norms[1], count, rule) + starts).flatten()
    values = (_kept(norms[2], count, rule) + starts).flatten()
    whole = attention.heads * width
    return torch.cat([meeting, meeting + whole, values + 2 * whole]), values
