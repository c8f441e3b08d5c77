"""Reduced resolutions, and which of them waste nothing on padding."""

from __future__ import annotations

from sparsevit.errors import ConfigError
from sparsevit.latency.padding import aligned_sizes, padding
from sparsevit.swin.config import SwinConfig

Size = tuple[int, int]
SMALLEST = 0.25
STRETCH = 1.1
"""How far the shape of a reduced size, width over height, may differ."""
UNALIGNED = (0.875, 0.75)
"""What is taken where none is aligned."""


def reduced_sizes(config: SwinConfig, size: Size, asked: tuple[Size, ...] | None) -> list[Size]:
    """(height, width) of the rows of reduced resolution, the largest first.

    As asked for, else the aligned ones below `size`, else UNALIGNED shares of it. Raises ConfigError
    for one that is no smaller than the full size.
    """
    found = asked or aligned_below(config, size)
    found = found or [(round(size[0] * s), round(size[1] * s)) for s in UNALIGNED]
    for height, width in found:
        if height * width >= size[0] * size[1] or min(height, width) < config.patch_size:
            raise ConfigError(
                f"{height} x {width} is no reduced resolution of {size[0]} x {size[1]}."
            )
    return sorted(found, reverse=True)


def aligned_below(config: SwinConfig, size: Size) -> list[Size]:
    """Sizes of about the same shape at which no stage is padded, from SMALLEST of the pixels to fewer
    than all, the largest first."""
    height, width = size
    unit = aligned_sizes(config, 1, 1)[0][0]  # the smallest there is
    found = [
        (rows, cols)
        for rows in range(unit, height + 1, unit)
        for cols in range(unit, width + 1, unit)
        if SMALLEST <= rows * cols / (height * width) < 1
        and 1 / STRETCH <= (cols / rows) / (width / height) <= STRETCH
    ]
    return found[::-1]


def padding_ratio(config: SwinConfig, size: Size) -> float:
    """Tokens computed for each real one, mean over the blocks; 1 = no padding."""
    ratios = [stage["ratio"] for stage in padding(config, *size)]
    blocks = sum(config.depths)
    return sum(r * depth for r, depth in zip(ratios, config.depths, strict=True)) / blocks


def padding_note(config: SwinConfig, name: str, size: Size) -> str | None:
    """What is said of a row whose size wastes tokens: how many, and which sizes waste none."""
    ratio = padding_ratio(config, size)
    if ratio == 1:
        return None
    others = ", ".join(f"{height} x {width}" for height, width in aligned_sizes(config, *size))
    return f"{name} computes {ratio:.2f} tokens for each real one; sizes without padding: {others}."
