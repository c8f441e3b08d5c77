"""How many blocks computed each pixel: what the window map shows (paper, Figure 5)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparsevit.swin.model import SparseSwin
from sparsevit.swin.stage import StageState


@torch.inference_mode()
def layer_counts(backbone: SparseSwin, images_BCHW: Tensor) -> np.ndarray:
    """Blocks that computed the window over each pixel, int64 [B, H, W], in 0 .. sum(depths)."""
    batch, _, height, width = images_BCHW.shape
    total = torch.zeros(batch, height, width, dtype=torch.int64, device=images_BCHW.device)
    x = backbone.patch_embed(images_BCHW)
    levels_of = backbone.sparsity.levels
    for index, (stage, levels) in enumerate(zip(backbone.layers, levels_of, strict=True)):
        score = backbone.stage_score(levels)
        state = stage.enter(x, score)
        for pair, level in enumerate(levels):
            stage.run_pair(state, pair, level, score)
        counts = _token_counts(state)
        scale = backbone.config.patch_size << index  # pixels of a token's side
        pixels = counts.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        total += pixels[:, :height, :width]
        x = stage.leave(state)
        if stage.downsample is not None:
            x = stage.downsample(x)
    return total.cpu().numpy()


def _token_counts(state: StageState) -> Tensor:
    """Blocks that computed each token: int64 [B, H, W]."""
    tokens = state.height * state.width
    counts = torch.zeros(state.batch, tokens + 1, dtype=torch.int64, device=state.table_TC.device)
    for block, kept in enumerate(state.kept):
        part = state.partitions[block % 2]
        if state.rankings is None or kept == part.windows:
            counts += 1
            continue
        computed = part.tokens_nN[state.rankings[block % 2][:, :kept]].flatten(1)
        counts.scatter_add_(1, computed, torch.ones_like(computed))
    return counts[:, :tokens].view(state.batch, state.height, state.width)
