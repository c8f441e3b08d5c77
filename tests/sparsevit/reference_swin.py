"""A slow Swin with window activation pruning, written from the definition: one window at a time.

It shares no index table with the product: the map is padded, rolled and cut into windows as the
paper describes, each kept window is computed alone, and the map is put together again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.model import SparseSwin, SwinBlock


def features(model: SparseSwin, images: Tensor, sparsity: SparsityConfig) -> list[Tensor]:
    """Feature maps [B, C, H, W] of every stage, computed image by image."""
    per_image = [_image(model, image[None], sparsity) for image in images]
    return [torch.cat(maps) for maps in zip(*per_image, strict=True)]


def _image(model: SparseSwin, image: Tensor, sparsity: SparsityConfig) -> list[Tensor]:
    x = model.patch_embed(image)[0]
    maps = []
    for index, stage in enumerate(model.layers):
        levels = sparsity.levels[index]
        order = [
            scores_of(x, b.shift, model.config.window_size, sparsity.score)
            for b in stage.blocks[:2]
        ]
        for number, block in enumerate(stage.blocks):
            late_first = sparsity.score == "late" and number == 0
            level = 0 if late_first else levels[number // 2]
            x = block_forward(block, x, model.config.window_size, level, order[number % 2])
            if late_first:
                order = [
                    scores_of(x, b.shift, model.config.window_size, "l2") for b in stage.blocks[:2]
                ]
        maps.append(model.output_norm(index)(x).permute(2, 0, 1)[None])
        if stage.downsample is not None:
            x = stage.downsample(x[None])[0]
    return maps


def windows_of(x: Tensor, window: int, shift: int) -> list[tuple[Tensor, Tensor]]:
    """(rows, columns) of the padded map, as index vectors, of every window; row-major."""
    height, width = -(-x.shape[0] // window) * window, -(-x.shape[1] // window) * window
    found = []
    for top in range(0, height, window):
        for left in range(0, width, window):
            rows = (torch.arange(top, top + window) + shift) % height
            cols = (torch.arange(left, left + window) + shift) % width
            found.append((rows, cols))
    return found


def scores_of(x: Tensor, shift: int, window: int, score: str) -> Tensor:
    values = []
    for rows, cols in windows_of(x, window, shift):
        tokens = torch.stack(
            [x[r, c] for r in rows for c in cols if r < x.shape[0] and c < x.shape[1]]
        )
        tokens = tokens.float()
        if score in ("l2", "late"):
            values.append(tokens.norm())
        elif score == "mean_abs":
            values.append(tokens.abs().mean(1).norm())
        elif score == "variance":
            values.append(tokens.var(0, unbiased=False).sum())
        else:
            values.append(torch.frac(tokens.sum().abs() * 997.0))
    return torch.stack(values)


def block_forward(block: SwinBlock, x: Tensor, window: int, level: int, scores: Tensor) -> Tensor:
    cut = windows_of(x, window, block.shift)
    kept = max(1, len(cut) * (10 - level) // 10)
    values = scores.tolist()
    chosen = sorted(range(len(cut)), key=lambda i: (-values[i], i))[:kept]
    height, width, channels = x.shape
    normed = block.norm1(x)
    normed = F.pad(normed, (0, 0, 0, -width % window, 0, -height % window))
    out = x.clone()
    for index in chosen:
        rows, cols = cut[index]
        attended = attend(
            block, normed[rows][:, cols].reshape(-1, channels), rows, cols, normed.shape
        )
        for i, row in enumerate(rows.tolist()):
            for j, col in enumerate(cols.tolist()):
                if row < height and col < width:
                    token = x[row, col] + attended[i * window + j]
                    out[row, col] = token + block.mlp(block.norm2(token))
    return out


def attend(
    block: SwinBlock, tokens: Tensor, rows: Tensor, cols: Tensor, padded: torch.Size
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
                if block.shift and (
                    region(rows, i, block.shift, padded[0])
                    != region(rows, k, block.shift, padded[0])
                    or region(cols, j, block.shift, padded[1])
                    != region(cols, m, block.shift, padded[1])
                ):
                    logits[a, b] = logits[a, b] - 100.0
        outputs.append(logits.softmax(-1) @ value[:, part])
    return attn.proj(torch.cat(outputs, -1))


def region(axis: Tensor, position: int, shift: int, length: int) -> bool:
    """Whether a position wrapped round the edge, in a window that holds both kinds."""
    return bool(axis[position] < shift and (axis >= length - len(axis) + shift).any())
