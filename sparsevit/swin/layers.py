"""The layers of a Swin around its windows: patch embedding, patch merging, block.

Shapes: B images, H x W tokens, C channels, R rows (tokens of whole windows).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.swin.attention import WindowAttention
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.portions import by_portions


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """(S)W-MSA and MLP on rows of whole windows; LayerNorm and MLP are window-wise too."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        dim = config.dims[stage]
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(
            dim, config.num_heads[stage], config.window_size, config.qkv_bias
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))

    def forward(self, rows_RC: Tensor, types_n: Tensor | None, padded_R1: Tensor | None) -> Tensor:
        """types_n: shift mask of each window, None where nothing is shifted. padded_R1: True at
        padded rows, which are zero after the norm (the original pads after it); None where nothing
        is padded."""
        normed = self.norm1(rows_RC)
        if padded_R1 is not None:
            normed = normed.masked_fill(padded_R1, 0.0)
        rows_RC = rows_RC + self.attn(normed, types_n)
        return rows_RC + self.mlp(self.norm2(rows_RC))


class PatchEmbed(nn.Module):
    """Patches to tokens: a strided convolution, a norm, and absolute positions where there are."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.proj = nn.Conv2d(
            config.in_channels, config.embed_dim, config.patch_size, config.patch_size
        )
        self.norm = nn.LayerNorm(config.embed_dim)
        self.absolute_pos_embed: nn.Parameter | None = None
        if config.absolute_positions is not None:
            grid = torch.zeros(1, config.embed_dim, *config.absolute_positions)
            self.absolute_pos_embed = nn.Parameter(nn.init.trunc_normal_(grid, std=0.02))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Images to tokens [B, H, W, C], padded at the right and bottom to whole patches."""
        size = self.patch_size
        pad = (0, -images_BCHW.shape[-1] % size, 0, -images_BCHW.shape[-2] % size)
        images_BCHW = F.pad(images_BCHW, pad) if any(pad) else images_BCHW
        # With channels last the convolution leaves its result as the norm and the blocks read it. A
        # CPU's kernel for it wants whole vectors of channels: at 24 it is three times slower.
        if self.proj.out_channels % 32 == 0:
            images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
        tokens = self.norm(self.proj(images_BCHW).permute(0, 2, 3, 1))
        if self.absolute_pos_embed is None:
            return tokens
        return tokens + self._positions(*tokens.shape[1:3])

    def _positions(self, height: int, width: int) -> Tensor:
        """[1, H, W, C]; resized bicubically, as detectors of the original code do."""
        grid = self.absolute_pos_embed
        if tuple(grid.shape[-2:]) != (height, width):
            grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
        return grid.permute(0, 2, 3, 1)


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
        height, width = (height + 1) // 2, (width + 1) // 2
        quads = x_BHWC.view(batch, height, 2, width, 2, channels)
        # Column parity outermost: (0,0), (1,0), (0,1), (1,1) of (row, column).
        quads = quads.permute(0, 1, 3, 4, 2, 5)

        def merge(rows: slice) -> Tensor:
            return self.reduction(self.norm(quads[:, rows].flatten(3)))

        return by_portions(merge, height, batch * width, self.reduction.weight, dim=1)
