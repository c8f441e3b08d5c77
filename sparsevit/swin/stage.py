"""A stage of the backbone: its blocks on one flat token table.

Each block reads, computes and writes back only the windows that it keeps; the others pass through
untouched.

Shapes: B images, H x W tokens of a stage, L = H * W, C channels, n windows per image of which k are
kept, N tokens per window, w = B * k, T = B * L rows of the token table (one more, the last, stands
for padding where there is any), R = rows a block computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparsevit.sparsity.config import kept_windows
from sparsevit.sparsity.score import Moment, WindowScore
from sparsevit.sparsity.select import rank_windows
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.layers import PatchMerging, SwinBlock
from sparsevit.swin.portions import portions
from sparsevit.swin.windows import Partition, partition, shift_sizes


@dataclass
class StageState:
    """A stage in the middle of its blocks: what a block pair reads and changes.

    first_row_B11: where each image begins in the table. partitions: the regular and the shifted
    one. rankings: the windows of each by falling score, [B, n]; None until they are scored. kept:
    windows each finished block really computed per image, counted from the rows it got.
    """

    table_TC: Tensor
    first_row_B11: Tensor
    batch: int
    height: int
    width: int
    partitions: tuple[Partition, Partition]
    rankings: tuple[Tensor, Tensor] | None
    kept: list[int]

    def fork(self) -> StageState:
        """A copy to run other block pairs on: they write into the table."""
        return replace(self, table_TC=self.table_TC.clone(), kept=list(self.kept))

    def tokens(self, shifted: int, keep_Bk: Tensor | None) -> Tensor:
        """Table rows of the kept windows of every image, [B, k, N]; of all where keep is None."""
        part = self.partitions[shifted]
        tokens = part.tokens_nN[None] if keep_Bk is None else part.tokens_nN[keep_Bk]
        rows = tokens + self.first_row_B11
        if part.real_nN is None:
            return rows
        return torch.where(tokens < self.height * self.width, rows, self.table_TC.shape[0] - 1)


class SwinStage(nn.Module):
    """The blocks of one resolution. `enter`, then every block pair in order, then `leave`."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        self.window_size, self.small_map = config.window_size, config.small_map
        self.activation_checkpointing = False
        self.blocks = nn.ModuleList(SwinBlock(config, stage) for _ in range(config.depths[stage]))
        last = stage == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(config.dims[stage])

    def enter(self, x_BHWC: Tensor, score: WindowScore | None) -> StageState:
        """Lays the tokens out; scores the windows unless `score` is None (a dense stage).

        Outside autograd the block pairs write into `x_BHWC` itself where nothing is padded.
        """
        batch, height, width, channels = x_BHWC.shape
        shifts = ((0, 0), shift_sizes(height, width, self.window_size, self.small_map))
        regular, shifted = (
            partition(height, width, self.window_size, shift, x_BHWC.device) for shift in shifts
        )
        table = x_BHWC.reshape(-1, channels)
        if regular.real_nN is not None:
            table = torch.cat([table, table.new_zeros(1, channels)])
        first_row = torch.arange(batch, device=table.device)[:, None, None] * (height * width)
        state = StageState(table, first_row, batch, height, width, (regular, shifted), None, [])
        if score is not None and score.moment is Moment.STAGE_INPUT:
            self.rank(state, score)
        return state

    def run_pair(self, state: StageState, pair: int, level: int, score: WindowScore | None) -> None:
        """Runs blocks 2*pair and 2*pair+1 at `level`, changing the state's table."""
        moment = None if score is None else score.moment
        if level and moment is Moment.FIRST_SPARSE_PAIR and state.rankings is None:
            self.rank(state, score)
        for index in (2 * pair, 2 * pair + 1):
            dense_first = index == 0 and moment is Moment.FIRST_BLOCK
            self._run_block(state, index, 0 if dense_first else level)
            if dense_first:
                self.rank(state, score)

    def leave(self, state: StageState) -> Tensor:
        """The stage's tokens [B, H, W, C]."""
        rows = state.batch * state.height * state.width
        return state.table_TC[:rows].view(state.batch, state.height, state.width, -1)

    def rank(self, state: StageState, score: WindowScore) -> None:
        """Scores the windows of both partitions on the tokens as they are now."""
        regular, shifted = (
            rank_windows(score, part, state.table_TC, state.tokens(i, None))
            for i, part in enumerate(state.partitions)
        )
        state.rankings = (regular, shifted)

    def _run_block(self, state: StageState, index: int, level: int) -> None:
        part = state.partitions[index % 2]
        keep_Bk = None
        if level:
            if state.rankings is None:
                raise RuntimeError("a sparse block needs ranked windows: enter() with a score")
            keep_Bk = state.rankings[index % 2][:, : kept_windows(part.windows, level)]
        tokens_BkN = state.tokens(index % 2, keep_Bk)
        types_w = _types(part, keep_Bk, state.batch)
        self._compute(state, self.blocks[index], tokens_BkN.flatten(0, 1), types_w)
        state.kept.append(tokens_BkN.shape[1])

    def _compute(
        self, state: StageState, block: SwinBlock, tokens_wN: Tensor, types_w: Tensor | None
    ) -> None:
        """Reads windows out of the table, computes them, writes them back, portion by portion."""
        windows, tokens = tokens_wN.shape
        padding = state.partitions[0].real_nN is not None
        for here in portions(windows, tokens, state.table_TC):
            index_R = tokens_wN[here].reshape(-1)
            padded_R1 = (index_R == state.table_TC.shape[0] - 1)[:, None] if padding else None
            rows = state.table_TC.index_select(0, index_R)  # its gradient beats that of indexing
            types = None if types_w is None else types_w[here]
            if self.activation_checkpointing and torch.is_grad_enabled():
                out = checkpoint(block, rows, types, padded_R1, use_reentrant=False)
            else:
                out = block(rows, types, padded_R1)
            # Windows of a partition are disjoint, so writing in place is safe; autograd needs a copy.
            # Padded positions all write the last row: it is never read but to be set to zero.
            if torch.is_grad_enabled():
                state.table_TC = state.table_TC.index_copy(0, index_R, out.to(rows.dtype))
            else:
                state.table_TC.index_copy_(0, index_R, out.to(rows.dtype))


def _types(part: Partition, keep_Bk: Tensor | None, batch: int) -> Tensor | None:
    """Shift mask of each window that a block computes, [B * k]; None where nothing is shifted."""
    if part.types_n is None:
        return None
    return part.types_n.repeat(batch) if keep_Bk is None else part.types_n[keep_Bk].reshape(-1)
