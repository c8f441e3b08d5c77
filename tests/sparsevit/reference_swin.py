"""A slow Swin with window activation pruning, written from the definition: one window at a time.

It shares no index table with the product: the map is padded, rolled and cut into windows as the
paper describes, each kept window is computed alone, and the map is put together again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.layers import SwinBlock
from sparsevit.swin.model import SparseSwin

Shift = tuple[int, int]


@dataclass
class Trace:
    """What the definition computed: feature maps [B, C, H, W] by stage, and which windows each block
    kept, best first: chosen[image][stage][block]."""

    maps: list[Tensor]
    chosen: list[list[list[list[int]]]] = field(default_factory=list)


def trace(model: SparseSwin, images: Tensor, sparsity: SparsityConfig) -> Trace:
    """Runs the definition, image by image."""
    chosen: list[list[list[list[int]]]] = []
    per_image = [_image(model, image[None], sparsity, chosen) for image in images]
    return Trace([torch.cat(maps) for maps in zip(*per_image, strict=True)], chosen)


def features(model: SparseSwin, images: Tensor, sparsity: SparsityConfig) -> list[Tensor]:
    return trace(model, images, sparsity).maps


def shifts_of(model: SparseSwin, x: Tensor) -> tuple[Shift, Shift]:
    """Rolls of the regular and of the shifted blocks for a map [H, W, C]."""
    window, rule = model.config.window_size, model.config.small_map
    half = window // 2
    high, wide = x.shape[0] > window, x.shape[1] > window
    if rule == "shift":
        return (0, 0), (half, half)
    if rule == "whole":
        return (0, 0), ((half, half) if high and wide else (0, 0))
    return (0, 0), (half if high else 0, half if wide else 0)


def _image(
    model: SparseSwin, image: Tensor, sparsity: SparsityConfig, chosen: list
) -> list[Tensor]:
    x = model.patch_embed(image)[0]
    maps, window = [], model.config.window_size
    chosen.append([])
    for index, stage in enumerate(model.layers):
        levels, shifts = sparsity.levels[index], shifts_of(model, x)

        def score(x: Tensor, shifts: tuple[Shift, Shift] = shifts) -> list[list[float]]:
            return [scores_of(x, s, window, sparsity.score).tolist() for s in shifts]

        scores = score(x)
        chosen[-1].append([])
        seen_sparse = False
        for number, block in enumerate(stage.blocks):
            level = levels[number // 2]
            if sparsity.score == "late" and number == 0:
                level = 0
            if sparsity.score == "released" and level and not seen_sparse:
                scores, seen_sparse = score(x), True
            count = len(windows_of(x, window, shifts[number % 2]))
            values = scores[number % 2]
            order = sorted(range(count), key=lambda i: (-values[i], i))
            kept = order[: max(1, count * (10 - level) // 10)]
            chosen[-1][-1].append(kept)
            x = block_forward(block, x, window, shifts[number % 2], kept)
            if sparsity.score == "late" and number == 0:
                scores = score(x)
        maps += model.outputs(index, x[None])
        if stage.downsample is not None:
            x = stage.downsample(x[None])[0]
    return maps


def windows_of(x: Tensor, window: int, shift: Shift) -> list[tuple[Tensor, Tensor]]:
    """(rows, columns) of the padded map, as index vectors, of every window; row-major."""
    height, width = -(-x.shape[0] // window) * window, -(-x.shape[1] // window) * window
    found = []
    for top in range(0, height, window):
        for left in range(0, width, window):
            rows = (torch.arange(top, top + window) + shift[0]) % height
            cols = (torch.arange(left, left + window) + shift[1]) % width
            found.append((rows, cols))
    return found


def scores_of(x: Tensor, shift: Shift, window: int, score: str) -> Tensor:
    values = []
    for rows, cols in windows_of(x, window, shift):
        tokens = torch.stack(
            [x[r, c] for r in rows for c in cols if r < x.shape[0] and c < x.shape[1]]
        )
        tokens = tokens.float()
        if score in ("l2", "late"):
            values.append(tokens.norm())
        elif score in ("mean_abs", "released"):
            values.append(tokens.abs().mean(1).norm())
        elif score == "variance":
            values.append(tokens.var(0, unbiased=False).sum())
        else:
            values.append(torch.frac(tokens.sum().abs() * 997.0))
    return torch.stack(values)


def block_forward(
    block: SwinBlock, x: Tensor, window: int, shift: Shift, chosen: list[int]
) -> Tensor:
    cut = windows_of(x, window, shift)
    height, width, channels = x.shape
    normed = block.norm1(x)
    normed = F.pad(normed, (0, 0, 0, -width % window, 0, -height % window))
    out = x.clone()
    for index in chosen:
        rows, cols = cut[index]
        tokens = normed[rows][:, cols].reshape(-1, channels)
        attended = attend(block, tokens, rows, cols, normed.shape, shift)
        for i, row in enumerate(rows.tolist()):
            for j, col in enumerate(cols.tolist()):
                if row < height and col < width:
                    token = x[row, col] + attended[i * window + j]
                    out[row, col] = token + block.mlp(block.norm2(token))
    return out


def attend(
    block: SwinBlock, tokens: Tensor, rows: Tensor, cols: Tensor, padded: torch.Size, shift: Shift
) -> Tensor:
    """Attention of one window; in a shifted one tokens of different image regions do not meet."""
    attn, window = block.attn, len(rows)
    query, key, value = attn.qkv(tokens).chunk(3, dim=-1)
    positions = [(i, j) for i in range(window) for j in range(window)]
    outputs = []
    for head in range(attn.heads):
        dim = tokens.shape[1] // attn.heads
        part = slice(head * dim, (head + 1) * dim)
        logits = query[:, part] @ key[:, part].T * dim**-0.5
        for a, (i, j) in enumerate(positions):
            for b, (k, m) in enumerate(positions):
                entry = (i - k + window - 1) * (2 * window - 1) + (j - m + window - 1)
                logits[a, b] = logits[a, b] + attn.relative_position_bias_table[entry, head]
                apart = region(rows, i, shift[0], padded[0]) != region(rows, k, shift[0], padded[0])
                apart |= region(cols, j, shift[1], padded[1]) != region(
                    cols, m, shift[1], padded[1]
                )
                if apart:
                    logits[a, b] = logits[a, b] - 100.0
        outputs.append(logits.softmax(-1) @ value[:, part])
    return attn.proj(torch.cat(outputs, -1))


def region(axis: Tensor, position: int, shift: int, length: int) -> bool:
    """Whether a position wrapped round the edge, in a window that holds both kinds."""
    if not shift:
        return False
    return bool(axis[position] < shift and (axis >= length - len(axis) + shift).any())
