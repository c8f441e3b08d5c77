"""Predictions of overlapping crops put together to one of the whole image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsevit.errors import ConfigError


def check_sliding(images: Sequence[np.ndarray], targets: Sequence[Any]) -> None:
    """ConfigError where a label map has another size than its image: crops are put together at the
    labels' resolution, and would lie elsewhere in them."""
    for image, target in zip(images, targets, strict=True):
        label_map = isinstance(target, np.ndarray) and target.ndim == 2
        if label_map and target.shape != image.shape[:2]:
            raise ConfigError(
                f"preprocess.slide must be null here: the labels are {target.shape[0]} x "
                f"{target.shape[1]}, their image is {image.shape[0]} x {image.shape[1]}."
            )


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
