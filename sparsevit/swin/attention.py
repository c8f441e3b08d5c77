"""Window attention with a relative position bias (Swin, ICCV 2021, arXiv 2103.14030)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.swin.windows import relative_position_index, shift_masks


class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window.

    Input and output rows_RC: [windows * N, C], window after window.
    """

    def __init__(self, dim: int, heads: int, window_size: int, shift: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.tokens = heads, window_size**2
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        # Buffers follow from the window size: not saved, so checkpoints may carry them or not.
        self.register_buffer(
            "relative_position_index", relative_position_index(window_size), persistent=False
        )
        masks = shift_masks(window_size, shift) if shift else None
        self.register_buffer("shift_masks", masks, persistent=False)

    def bias(self, types_n: Tensor) -> Tensor:
        """Position bias, plus each window's shift mask: [1 or windows, heads, N, N]."""
        table = self.relative_position_bias_table[self.relative_position_index]
        bias_hNN = table.view(self.tokens, self.tokens, self.heads).permute(2, 0, 1)
        if self.shift_masks is None:
            return bias_hNN[None]
        # The masks are picked before the sum: the gradient of the bias is then a plain reduction.
        return bias_hNN[None] + self.shift_masks.to(bias_hNN.dtype)[types_n, None]

    def forward(self, rows_RC: Tensor, types_n: Tensor) -> Tensor:
        channels = rows_RC.shape[1]
        qkv = self.qkv(rows_RC).view(-1, self.tokens, 3, self.heads, channels // self.heads)
        query, key, val = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [windows, heads, N, d]
        out = F.scaled_dot_product_attention(query, key, val, attn_mask=self.bias(types_n))
        return self.proj(out.transpose(1, 2).reshape(-1, channels))
