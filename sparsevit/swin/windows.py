"""Window partitions as index tables: pure integer maths.

Pad, roll, partition and gather of the original become ONE indexed read of a flat token table, and
their reverse ONE indexed write. A padded position reads the table's last row.

Shapes: H, W tokens of a stage; L = H * W; n windows; N = window_size ** 2 tokens in a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Partition:
    """One partition (regular or shifted) of a map into windows.

    tokens_nN: int64, the token each position of each window reads, row-major in the map; L = padding.
    types_n: int64, the shift mask a window needs: 0 interior, 1 right, 2 bottom, 3 corner; None
    where nothing is shifted.
    real_nN: bool, True = a real token; None where nothing is padded.
    """

    tokens_nN: Tensor
    types_n: Tensor | None
    real_nN: Tensor | None

    @property
    def windows(self) -> int:
        return self.tokens_nN.shape[0]


def shift_sizes(height: int, width: int, window_size: int, small_map: str) -> tuple[int, int]:
    """(rows, columns) by which the shifted partition of a height x width map is rolled.

    small_map: see sparsevit.swin.config.SMALL_MAPS.
    """
    half = window_size // 2
    fits = (height <= window_size, width <= window_size)
    if small_map == "whole" and any(fits):
        return 0, 0
    if small_map == "axis":
        return (0 if fits[0] else half), (0 if fits[1] else half)
    return half, half


def _table(build: Callable[..., T]) -> Callable[..., T]:
    """Keeps what `build` made for its (hashable) arguments: tables depend on sizes alone."""
    # A table first made in inference mode must serve training too. Many are kept, since a CUDA graph
    # holds the addresses of those it was captured with: they must outlive it.
    kept = lru_cache(maxsize=2048)(torch.inference_mode(False)(build))

    @wraps(build)
    def get(*args: Any) -> T:
        # What tracing makes must not outlive it: it becomes part of the traced graph.
        return build(*args) if torch.compiler.is_compiling() else kept(*args)

    return get


@_table
def partition(
    height: int, width: int, window_size: int, shift: tuple[int, int], device: torch.device
) -> Partition:
    """The partition of a height x width map, padded at the right and bottom, then rolled by `shift`.

    Padding comes before the roll, as in the original (OpenMMLab, transformers, torchvision).
    """
    padded_height = -(-height // window_size) * window_size
    padded_width = -(-width // window_size) * window_size
    rows = (torch.arange(padded_height, device=device) + shift[0]) % padded_height
    cols = (torch.arange(padded_width, device=device) + shift[1]) % padded_width
    inside = (rows < height)[:, None] & (cols < width)[None]
    tokens = torch.where(inside, rows[:, None] * width + cols[None], height * width)
    down, across = padded_height // window_size, padded_width // window_size
    tokens = tokens.view(down, window_size, across, window_size).permute(0, 2, 1, 3)
    tokens_nN = tokens.reshape(down * across, window_size**2)
    padded = (padded_height, padded_width) != (height, width)
    real_nN = tokens_nN < height * width if padded else None
    return Partition(tokens_nN, _types(down, across, shift, device), real_nN)


def _types(down: int, across: int, shift: tuple[int, int], device: torch.device) -> Tensor | None:
    if not any(shift):
        return None
    right = (torch.arange(across, device=device) == across - 1) & (shift[1] > 0)
    bottom = (torch.arange(down, device=device) == down - 1) & (shift[0] > 0)
    return (right[None].long() + 2 * bottom[:, None].long()).reshape(-1)


@_table
def shift_masks(window_size: int, device: torch.device) -> Tensor:
    """Additive attention masks [4, N, N] by window type: 0 where two tokens may meet, else -100.

    A window at the right (bottom) edge of a rolled map holds columns (rows) of two image regions,
    which must not attend to each other.
    """
    wrapped = torch.arange(window_size, device=device) >= window_size - window_size // 2
    none = torch.zeros_like(wrapped)
    masks = []
    for kind in range(4):
        rows, cols = (wrapped if kind & 2 else none), (wrapped if kind & 1 else none)
        region = (rows[:, None].long() * 2 + cols[None].long()).reshape(-1)
        masks.append(torch.where(region[:, None] == region[None], 0.0, -100.0))
    return torch.stack(masks)


@_table
def relative_position_index(window_size: int, device: torch.device) -> Tensor:
    """int64 [N * N]: row of the bias table for each (query, key) of a window."""
    axis = torch.arange(window_size, device=device)
    positions = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offset = (positions[:, :, None] - positions[:, None]).permute(1, 2, 0) + window_size - 1
    return (offset[..., 0] * (2 * window_size - 1) + offset[..., 1]).reshape(-1)
