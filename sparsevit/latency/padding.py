"""Padding waste: how many of the tokens a stage computes are padding, and which sizes have none.

A stage's map is padded to whole windows (paper.md, pitfall 3): at 256 x 704 Swin-T's last stage
computes 2.2 tokens for each real one. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsevit.swin.config import SwinConfig


def padding(config: SwinConfig, height: int, width: int) -> list[dict[str, Any]]:
    """Tokens of each stage for an image of height x width pixels: [{"stage", "padded", "real",
    "ratio"}], stages from 0; ratio = padded / real, 1.0 without waste."""
    found = []
    for stage, (rows, cols) in enumerate(config.stage_sizes(height, width)):
        padded, real = config.windows(rows, cols) * config.window_size**2, rows * cols
        found.append({"stage": stage, "padded": padded, "real": real, "ratio": padded / real})
    return found


def aligned_sizes(config: SwinConfig, height: int, width: int) -> list[tuple[int, int]]:
    """The nearest sizes (height, width) in pixels, below and above, at which no stage is padded."""
    unit = config.patch_size * config.window_size * 2 ** (len(config.depths) - 1)
    sides = (_around(height, unit), _around(width, unit))
    return [(rows, cols) for rows in sides[0] for cols in sides[1]]


def scaled_ms(
    config: SwinConfig,
    size: tuple[int, int],
    other: tuple[int, int],
    fixed_ms: float,
    pair_ms: Sequence[float],
) -> float:
    """Dense latency at another size, from the parts measured at `size`: a block pair costs as much
    as it has windows, all else as much as the image has pixels.

    pair_ms: of each dense block pair, in ms.
    """
    windows, others = config.stage_windows(*size), config.stage_windows(*other)
    growth = [
        b / a for a, b, n in zip(windows, others, config.pairs, strict=True) for _ in range(n)
    ]
    pixels = other[0] * other[1] / (size[0] * size[1])
    return fixed_ms * pixels + sum(ms * g for ms, g in zip(pair_ms, growth, strict=True))


def _around(side: int, unit: int) -> list[int]:
    return sorted({max(1, side // unit) * unit, -(-side // unit) * unit})
