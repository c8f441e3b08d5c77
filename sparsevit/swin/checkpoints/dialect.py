"""A dialect: how one family of libraries names and lays out the tensors of a Swin.

One table serves both directions. It maps our parts (those of SparseSwin's state dict) to templates
of theirs; reading looks a tensor up under their name, writing puts it there. In a template

    {stage}, {block}  count from 0, as ours do
    {next}            is stage + 1
    {odd}, {even}     are 2 * stage + 1 and 2 * stage + 2: blocks and merges that share one list

A tuple of templates is one tensor of ours that they keep in pieces, concatenated along dim 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsevit.errors import CheckpointMismatch

TABLE = "attn.relative_position_bias_table"
POSITIONS = "patch_embed.absolute_pos_embed"
BLOCK_PARTS = ("norm1", "attn.qkv", "attn.proj", TABLE, "norm2", "mlp.fc1", "mlp.fc2")
MERGE_PARTS = ("norm", "reduction")
NUMBERS = re.compile(r"layers\.(?P<stage>\d+)\.(?:blocks\.(?P<block>\d+)\.)?")
MERGE = re.compile(r"layers\.\d+\.downsample\.")


def names(
    *,
    patch: tuple[str, str],
    block: str,
    merge: str,
    inside: Mapping[str, str | tuple[str, ...]] | None = None,
) -> dict[str, tuple[str, ...]]:
    """The table of a dialect from its few real differences.

    patch: convolution and norm of the patch embedding. block, merge: templates of a block and of a
    patch merging. inside: what a block's parts are called where that is not as in the original.
    """
    table = {"patch_embed.proj": (patch[0],), "patch_embed.norm": (patch[1],)}
    for part in BLOCK_PARTS:
        theirs = (inside or {}).get(part, part)
        pieces = (theirs,) if isinstance(theirs, str) else theirs
        table["layers.{stage}.blocks.{block}." + part] = tuple(f"{block}.{p}" for p in pieces)
    for part in MERGE_PARTS:
        table["layers.{stage}.downsample." + part] = (f"{merge}.{part}",)
    return table


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Names and layout of one family of checkpoints.

    name: what save_backbone calls it. title: whose it is, for people.
    names: our parts to their templates, see the module.
    stage_norm: template of the output norms of stages, None where there are none. final_norms:
    templates of a classifier's only norm, after its last stage. The first is written, all are read.
    positions: names of the absolute position embedding, likewise. It is [1, L, C] of a square grid;
    with grid_positions, beside stage norms, [1, C, rows, columns].
    unfold_merge: patch merging gathers its 2 x 2 tokens by nn.Unfold (see `from_unfold`).
    small_map: what the family does with small maps (one of SMALL_MAPS); None: its classifiers and
    its detectors differ, so each file decides.
    wrapper: a module that may stand around all but the stage norms.
    """

    name: str
    title: str
    names: Mapping[str, tuple[str, ...]]
    stage_norm: str | None = None
    final_norms: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    grid_positions: bool = False
    unfold_merge: bool = False
    small_map: str | None = None
    wrapper: str = ""

    def keys(self, ours: str) -> tuple[str, ...]:
        """Their tensors that make up our tensor of a block, a merge or the patch embedding."""
        place = NUMBERS.match(ours)
        part, numbers = ours, place.groupdict() if place else {}
        if place:
            block = "blocks.{block}." if numbers["block"] else ""
            part = "layers.{stage}." + block + ours[place.end() :]
        module, _, leaf = part.rpartition(".")
        whole = part in self.names  # the bias table; all else is a module's weight or bias
        end = "" if whole else f".{leaf}"
        return tuple(fill(t, **numbers) + end for t in self.names[part if whole else module])

    @property
    def signature(self) -> str:
        """A tensor that every Swin of this dialect has."""
        return self.keys("layers.0.blocks.0.attn.qkv.weight")[0]

    def read(self, ours: str, tensors: list[Tensor]) -> Tensor:
        """Our tensor from theirs; ValueError where the pieces do not belong together."""
        if len(tensors) == 1:
            (tensor,) = tensors
        elif len({(t.shape, t.dtype) for t in tensors}) == 1 and tensors[0].ndim:
            tensor = torch.cat(tensors)
        else:
            raise ValueError(f"the pieces of {ours} differ in shape or type")
        reorder = self.unfold_merge and MERGE.match(ours)
        return from_unfold(tensor) if reorder else tensor

    def write(self, ours: str, tensor: Tensor) -> dict[str, Tensor]:
        """Their tensors by name: the inverse of `read`."""
        keys = self.keys(ours)
        if self.unfold_merge and MERGE.match(ours):
            tensor = to_unfold(tensor)
        return dict(zip(keys, tensor.chunk(len(keys)), strict=True))

    @property
    def alike(self) -> bool:
        """Whether a classifier's only norm is named as a detector's is."""
        return self.stage_norm in self.final_norms

    def outside(self, prefix: str) -> str:
        """Where the stage norms of a backbone under `prefix` lie, if it is wrapped."""
        wrapped = self.wrapper and f".{prefix}".endswith(f".{self.wrapper}")
        return prefix.removesuffix(self.wrapper) if wrapped else prefix

    def roots(self, templates: Iterable[str] | None = None) -> re.Pattern[str]:
        """Matches the first name behind the prefix of every tensor that a template names."""
        if templates is None:
            parts = (t for theirs in self.names.values() for t in theirs)
            norms = [*self.final_norms, *([self.stage_norm] if self.stage_norm else [])]
            # Positions would change the features: never left, even where they are not known.
            templates = [*parts, *norms, *self.positions, "absolute_pos_embed"]
        firsts = sorted({template.split(".")[0] for template in templates})
        patterns = (re.sub(r"\\{\w+\\}", r"\\d+", re.escape(first)) for first in firsts)
        return re.compile(rf"({'|'.join(patterns) or '(?!)'})(\.|$)")


def fill(template: str, stage: str | int = 0, block: str | int | None = 0) -> str:
    """The template's name at one stage and block."""
    number = int(stage)
    return template.format(
        stage=number, block=block, next=number + 1, odd=2 * number + 1, even=2 * number + 2
    )


def our_keys(depths: tuple[int, ...]) -> Iterator[str]:
    """The tensors of a backbone of these depths, but for output norms and positions."""
    modules = ["patch_embed.proj", "patch_embed.norm"]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            inside = f"layers.{stage}.blocks.{block}."
            yield inside + TABLE
            modules += [inside + part for part in BLOCK_PARTS if part != TABLE]
        if stage < len(depths) - 1:
            modules += [f"layers.{stage}.downsample.{part}" for part in MERGE_PARTS]
    for module in modules:
        yield f"{module}.weight"
        yield f"{module}.bias"


# Patch merging joins 2 x 2 tokens of C channels into 4C. Ours, as the original, puts quad after
# quad, the (row, column) offsets in the order (0,0), (1,0), (0,1), (1,1); nn.Unfold puts channel
# after channel, each with its offsets row by row. So ours is [column, row, C] and theirs
# [C, row, column] of the same numbers.


def from_unfold(tensor: Tensor) -> Tensor:
    """A merge's norm [4C] or reduction [2C, 4C] from nn.Unfold's order to ours."""
    if not tensor.ndim or tensor.shape[-1] % 4:
        return tensor  # no merge's tensor: the comparison with the architecture names it
    theirs = tensor.unflatten(-1, (tensor.shape[-1] // 4, 2, 2))
    return theirs.movedim(-3, -1).transpose(-3, -2).flatten(-3)


def to_unfold(tensor: Tensor) -> Tensor:
    """The inverse of `from_unfold`."""
    ours = tensor.unflatten(-1, (2, 2, tensor.shape[-1] // 4))
    return ours.transpose(-3, -2).movedim(-1, -3).flatten(-3)


def grid_from_list(positions_1LC: Tensor, grid: tuple[int, int] | None, name: str) -> Tensor:
    """[1, rows * columns, C] to [1, C, rows, columns]; a square unless `grid` fits the length."""
    length = positions_1LC.shape[1]
    side = round(length**0.5)
    rows, columns = grid if grid and math.prod(grid) == length else (side, side)
    if rows * columns != length:
        raise CheckpointMismatch(
            f"{name} lists {length} absolute positions, which are no square grid, and does not say "
            "how many rows they fill. Store them as [1, channels, rows, columns]."
        )
    return positions_1LC.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
