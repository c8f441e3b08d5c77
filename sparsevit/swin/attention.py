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

    def __init__(self, dim: int, heads: int, window_size: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.window_size, self.tokens = heads, window_size, window_size**2
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def bias(self, types_n: Tensor | None) -> Tensor:
        """Position bias, plus each window's shift mask: [1 or windows, heads, N, N].

        types_n: shift mask of each window; None where nothing is shifted.
        """
        table = self.relative_position_bias_table
        index = relative_position_index(self.window_size, table.device)
        bias_hNN = table[index].view(self.tokens, self.tokens, self.heads).permute(2, 0, 1)
        if types_n is None:
            return bias_hNN[None]
        # The masks are picked before the sum: the gradient of the bias is then a plain reduction.
        masks = shift_masks(self.window_size, table.device).to(table.dtype)
        return bias_hNN[None] + masks[types_n, None]

    def forward(self, rows_RC: Tensor, types_n: Tensor | None) -> Tensor:
        channels = rows_RC.shape[1]
        qkv = self.qkv(rows_RC).view(-1, self.tokens, 3, self.heads, channels // self.heads)
        query, key, val = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [windows, heads, N, d]
        bias = self.bias(types_n).to(query.dtype)  # autocast leaves parameters in fp32
        out = F.scaled_dot_product_attention(query, key, val, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(-1, channels))
