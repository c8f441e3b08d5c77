"""How much of a layer is computed at once.

On a CPU a block over all windows writes and reads back tensors far larger than the cache: the MLP's
hidden layer of one Swin-T block at 672 x 672 pixels is 43 MB. Taken a few windows at a time it never
leaves the cache, and the peak of memory falls. Accelerators want the opposite, few large kernels;
autograd keeps everything anyway; and a compiler should see one loop-free graph.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

# About what one portion reads. Its hidden layer, four times as large, still fits the caches of a core.
BYTES_AT_ONCE = 2**20
# Below this, matrix products of wide stages would read their weights too often.
ROWS_AT_ONCE = 1024


def portions(items: int, rows_each: int, like: Tensor) -> list[slice]:
    """Slices that cover `items` of `rows_each` rows, like.shape[-1] channels wide, evenly sized."""
    whole = like.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling()
    if whole or not items:
        return [slice(None)]
    fitting = BYTES_AT_ONCE // (like.shape[-1] * like.element_size())
    rows = max(ROWS_AT_ONCE, fitting) * torch.get_num_threads()
    count = max(1, round(items * rows_each / rows))
    edges = [items * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges) if b > a]


def by_portions(
    compute: Callable[[slice], Tensor], items: int, rows_each: int, like: Tensor, dim: int
) -> Tensor:
    """torch.cat([compute(part) for part in portions(...)], dim), holding one part at a time."""
    parts = portions(items, rows_each, like)
    if len(parts) == 1:
        return compute(parts[0])
    whole: Tensor | None = None
    for part in parts:
        value = compute(part)
        if whole is None:
            whole = value.new_empty([*value.shape[:dim], items, *value.shape[dim + 1 :]])
        whole.narrow(dim, part.start, part.stop - part.start).copy_(value)
    return whole
