"""The Swin backbone with window activation pruning (SparseViT, CVPR 2023, arXiv 2303.17605).

A stage keeps its tokens in one flat table and each block reads, computes and writes back only the
windows that it keeps; the others pass through untouched.

Shapes: B images, H x W tokens of a stage, L = H * W, C channels, n windows per image, N tokens per
window, T = B * L rows of the token table (one more, the last, stands for padding where there is any),
R = rows a block computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import Genes, SparsityConfig, kept_windows
from sparsevit.sparsity.score import WindowScore, get_score
from sparsevit.sparsity.select import rank_windows
from sparsevit.swin.attention import WindowAttention
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.windows import Partition, partition


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """(S)W-MSA and MLP on rows of whole windows; LayerNorm and MLP are window-wise too."""

    def __init__(self, config: SwinConfig, stage: int, shift: int) -> None:
        super().__init__()
        dim = config.dims[stage]
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(
            dim, config.num_heads[stage], config.window_size, shift, config.qkv_bias
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))

    def forward(self, rows_RC: Tensor, types: Tensor, real_R1: Tensor | None) -> Tensor:
        """real_R1: False at padded rows, which must be zero after the norm (the original pads after
        it); None where nothing is padded."""
        normed = self.norm1(rows_RC)
        if real_R1 is not None:
            normed = normed * real_R1
        rows_RC = rows_RC + self.attn(normed, types)
        return rows_RC + self.mlp(self.norm2(rows_RC))


class PatchEmbed(nn.Module):
    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.proj = nn.Conv2d(
            config.in_channels, config.embed_dim, config.patch_size, config.patch_size
        )
        self.norm = nn.LayerNorm(config.embed_dim)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Images to tokens [B, H, W, C], padded at the right and bottom to whole patches."""
        height, width = images_BCHW.shape[-2:]
        pad = (0, -width % self.patch_size, 0, -height % self.patch_size)
        patches = self.proj(F.pad(images_BCHW, pad) if any(pad) else images_BCHW)
        return self.norm(patches.permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """2 x 2 tokens to one of twice the channels, in the order of the original code."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        batch, height, width, channels = x_BHWC.shape
        if height % 2 or width % 2:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, width % 2, 0, height % 2))
        quads = x_BHWC.view(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
        # Column parity outermost: (0,0), (1,0), (0,1), (1,1) of (row, column).
        quads = quads.permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(quads))


@dataclass
class StageState:
    """A stage in the middle of its blocks: what a block pair reads and changes.

    kept: windows each finished block really computed per image, counted from the rows it got.
    """

    table_TC: Tensor
    batch: int
    height: int
    width: int
    partitions: tuple[Partition, Partition]
    rankings: tuple[Tensor, Tensor] | None
    kept: list[int]

    def fork(self) -> StageState:
        """A copy to run other block pairs on: they write into the table."""
        return StageState(
            self.table_TC.clone(),
            self.batch,
            self.height,
            self.width,
            self.partitions,
            self.rankings,
            list(self.kept),
        )


class SwinStage(nn.Module):
    """The blocks of one resolution. `enter`, then every block pair in order, then `leave`."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        self.window_size = config.window_size
        shifts = (0, config.window_size // 2)
        self.blocks = nn.ModuleList(
            SwinBlock(config, stage, shifts[i % 2]) for i in range(config.depths[stage])
        )
        last = stage == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(config.dims[stage])

    def enter(self, x_BHWC: Tensor, score: WindowScore | None) -> StageState:
        """Lays the tokens out; scores the windows unless `score` is None (a dense stage).

        Outside autograd the block pairs write into `x_BHWC` itself where nothing is padded.
        """
        batch, height, width, channels = x_BHWC.shape
        parts = [
            partition(height, width, self.window_size, self.blocks[i].shift, x_BHWC.device)
            for i in (0, 1)
        ]
        table = x_BHWC.reshape(-1, channels)
        if parts[0].real_nN is not None:
            table = torch.cat([table, table.new_zeros(1, channels)])
        state = StageState(table, batch, height, width, (parts[0], parts[1]), None, [])
        if score is not None and not score.after_first_block:
            self._rank(state, score)
        return state

    def run_pair(self, state: StageState, pair: int, level: int, score: WindowScore | None) -> None:
        """Runs blocks 2*pair and 2*pair+1 at `level`, changing the state's table."""
        for index in (2 * pair, 2 * pair + 1):
            dense_first = index == 0 and score is not None and score.after_first_block
            self._run_block(state, index, 0 if dense_first else level)
            if dense_first:
                self._rank(state, score)

    def leave(self, state: StageState) -> Tensor:
        """The stage's tokens [B, H, W, C]."""
        rows = state.batch * state.height * state.width
        return state.table_TC[:rows].view(state.batch, state.height, state.width, -1)

    def _rank(self, state: StageState, score: WindowScore) -> None:
        first, second = (
            rank_windows(score, part, state.table_TC, _batch_tokens(part, None, state))
            for part in state.partitions
        )
        state.rankings = (first, second)

    def _run_block(self, state: StageState, index: int, level: int) -> None:
        part = state.partitions[index % 2]
        keep_Bk = None
        if level:
            if state.rankings is None:
                raise RuntimeError("a sparse block needs ranked windows: enter() with a score")
            keep_Bk = state.rankings[index % 2][:, : kept_windows(part.windows, level)]
        tokens_R = _batch_tokens(part, keep_Bk, state).reshape(-1)
        types = part.types_n.repeat(state.batch) if keep_Bk is None else part.types_n[keep_Bk]
        real_R1 = None
        if part.real_nN is not None:
            real_R1 = (tokens_R < state.table_TC.shape[0] - 1)[:, None]
        rows = state.table_TC.index_select(0, tokens_R)  # its gradient beats that of indexing
        out = self.blocks[index](rows, types.reshape(-1), real_R1)
        # Windows of a partition are disjoint, so writing in place is safe; autograd needs a copy.
        # Padded positions all write the last row: it is never read but through `real`.
        if torch.is_grad_enabled():
            state.table_TC = state.table_TC.index_copy(0, tokens_R, out.to(rows.dtype))
        else:
            state.table_TC.index_copy_(0, tokens_R, out.to(rows.dtype))
        state.kept.append(rows.shape[0] // (self.window_size**2 * state.batch))


def _batch_tokens(part: Partition, keep_Bk: Tensor | None, state: StageState) -> Tensor:
    """Table rows of the kept windows of every image: [B, k, N]; all windows where keep is None."""
    per_image = state.height * state.width
    if keep_Bk is None:
        tokens = part.tokens_nN[None].expand(state.batch, -1, -1)
    else:
        tokens = part.tokens_nN[keep_Bk]
    if state.batch == 1:
        return tokens  # padding is already the row after the image's tokens
    first_row = torch.arange(state.batch, device=tokens.device)[:, None, None] * per_image
    if part.real_nN is None:
        return tokens + first_row
    return torch.where(tokens < per_image, tokens + first_row, state.batch * per_image)


class SparseSwin(nn.Module):
    """Swin that computes, in each block pair, only the most important windows.

    forward(images [B, 3, H, W]) -> one feature map per stage, [B, C, H, W], each after its output
    norm. `set_sparsity` decides what is skipped from then on; a new model is dense.
    Parameter names are those of the original Swin code.
    """

    def __init__(self, config: SwinConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SwinConfig()
        self.patch_embed = PatchEmbed(config)
        self.layers = nn.ModuleList(SwinStage(config, i) for i in range(len(config.depths)))
        for stage, dim in enumerate(config.dims):
            self.add_module(f"norm{stage}", nn.LayerNorm(dim))
        self.sparsity = SparsityConfig.dense(config.pairs)
        self.executed_windows: tuple[tuple[int, ...], ...] | None = None
        self.apply(_initialise)

    def set_sparsity(self, sparsity: SparsityConfig) -> None:
        """Applies ratios and score to every later forward; ConfigError where they do not fit."""
        sparsity.check_depths(self.config.depths)
        get_score(sparsity.score)
        self.sparsity = sparsity

    def output_norm(self, stage: int) -> nn.Module:
        return self.get_submodule(f"norm{stage}")

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        x, features, executed = self.patch_embed(images_BCHW), [], []
        for index, (stage, levels) in enumerate(
            zip(self.layers, self.sparsity.levels, strict=True)
        ):
            x, kept = self.run_stage(stage, x, levels)
            executed.append(tuple(kept))
            features.append(self.output_norm(index)(x).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        # Counted from the rows each block computed, so that sparsity that was asked for and not
        # applied cannot go unseen.
        self.executed_windows = tuple(executed)
        return features

    def run_stage(
        self, stage: SwinStage, x_BHWC: Tensor, levels: Genes
    ) -> tuple[Tensor, Sequence[int]]:
        """One stage at the given levels: its tokens and the windows each block computed."""
        score = self.stage_score(levels)
        state = stage.enter(x_BHWC, score)
        for pair, level in enumerate(levels):
            stage.run_pair(state, pair, level, score)
        return stage.leave(state), state.kept

    def stage_score(self, levels: Sequence[int]) -> WindowScore | None:
        """The score of a stage at these levels: None where nothing is dropped."""
        return get_score(self.sparsity.score) if any(levels) else None

    def kept_windows(
        self, sparsity: SparsityConfig, height: int, width: int
    ) -> tuple[tuple[int, ...], ...]:
        """Windows each block computes per image of height x width pixels, [stage][block]."""
        sparsity.check_depths(self.config.depths)
        sizes = self.config.stage_sizes(height, width)
        return tuple(self.kept_in_stage(sparsity, i, *size) for i, size in enumerate(sizes))

    def kept_in_stage(
        self, sparsity: SparsityConfig, stage: int, rows: int, cols: int
    ) -> tuple[int, ...]:
        """Windows each block of a stage with rows x cols tokens computes per image."""
        windows = self.config.windows(rows, cols)
        levels = sparsity.levels[stage]
        blocks = [kept_windows(windows, level) for level in levels for _ in (0, 1)]
        if get_score(sparsity.score).after_first_block:
            blocks[0] = windows
        return tuple(blocks)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_images(images_BCHW: Tensor) -> None:
    """ConfigError unless the tensor is a batch of images."""
    if images_BCHW.ndim != 4 or not images_BCHW.is_floating_point():
        raise ConfigError(
            "images must be a float tensor [batch, channels, height, width], "
            f"got {images_BCHW.dtype} {list(images_BCHW.shape)}."
        )
