"""Predictions of overlapping crops put together to one of the whole image."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def joined(crops: Iterable[tuple[tuple[int, int], Tensor]], size: tuple[int, int]) -> Tensor:
    """The mean of all crops that cover a pixel: [classes, H, W] of `size` = (H, W).

    crops: ((top, left), [classes, h, w]) at the resolution of the result; together they cover it.
    What a crop has beyond the bottom or the right of the image was padding, and is left out.
    """
    total: Tensor | None = None
    for (top, left), scores in crops:
        if total is None:
            total = scores.new_zeros(scores.shape[0], *size)
            count = scores.new_zeros(size)
        rows, cols = slice(top, top + scores.shape[1]), slice(left, left + scores.shape[2])
        part = total[:, rows, cols]
        part += scores[:, : part.shape[1], : part.shape[2]]
        count[rows, cols] += 1
    if total is None or not bool((count > 0).all()):
        raise ValueError("the crops do not cover the image.")
    return torch.div(total, count, out=total)
