"""Window partitions as index tables: pure integer maths.

Pad, roll, partition and gather of the original become ONE indexed read of a flat token table, and
their reverse ONE indexed write. A padded position reads the table's last row.

Shapes: H, W tokens of a stage; L = H * W; n windows; N = window_size ** 2 tokens in a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Partition:
    """One partition (regular or shifted) of a map into windows.

    tokens_nN: int64, the token each position of each window reads, row-major in the map; L = padding.
    types_n: int64, the shift mask a window needs: 0 interior, 1 right, 2 bottom, 3 corner.
    real_nN: bool, True = a real token; None where nothing is padded.
    """

    tokens_nN: Tensor
    types_n: Tensor
    real_nN: Tensor | None

    @property
    def windows(self) -> int:
        return self.tokens_nN.shape[0]


@lru_cache(maxsize=128)
@torch.inference_mode(False)  # a table first made for inference must serve training too
def partition(
    height: int, width: int, window_size: int, shift: int, device: torch.device
) -> Partition:
    """The partition of a height x width map, padded at the right and bottom, then rolled by `shift`.

    Padding comes before the roll, as in the original (mmdet, transformers, torchvision).
    """
    padded_height = -(-height // window_size) * window_size
    padded_width = -(-width // window_size) * window_size
    rows = (torch.arange(padded_height) + shift) % padded_height
    cols = (torch.arange(padded_width) + shift) % padded_width
    inside = (rows < height)[:, None] & (cols < width)[None]
    tokens = torch.where(inside, rows[:, None] * width + cols[None], height * width)
    down, across = padded_height // window_size, padded_width // window_size
    tokens = tokens.view(down, window_size, across, window_size).permute(0, 2, 1, 3)
    tokens_nN = tokens.reshape(down * across, window_size**2).contiguous()
    types = torch.zeros(down, across, dtype=torch.int64)
    if shift:
        types[:, -1] += 1
        types[-1, :] += 2
    real_nN = None if bool(inside.all()) else (tokens_nN < height * width).to(device)
    return Partition(tokens_nN.to(device), types.reshape(-1).to(device), real_nN)


def shift_masks(window_size: int, shift: int) -> Tensor:
    """Additive attention masks [4, N, N] by window type: 0 where two tokens may meet, else -100.

    A window at the right (bottom) edge of a rolled map holds columns (rows) of two image regions,
    which must not attend to each other.
    """
    wrapped = (torch.arange(window_size) >= window_size - shift).to(torch.int64)
    none = torch.zeros_like(wrapped)
    masks = []
    for kind in range(4):
        rows, cols = (wrapped if kind & 2 else none), (wrapped if kind & 1 else none)
        region = (rows[:, None] * 2 + cols[None]).reshape(-1)
        masks.append(torch.where(region[:, None] == region[None], 0.0, -100.0))
    return torch.stack(masks)


def relative_position_index(window_size: int) -> Tensor:
    """int64 [N * N]: row of the bias table for each (query, key) of a window."""
    axis = torch.arange(window_size)
    positions = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offset = (positions[:, :, None] - positions[:, None]).permute(1, 2, 0) + window_size - 1
    return (offset[..., 0] * (2 * window_size - 1) + offset[..., 1]).reshape(-1)
