"""BEVDet's own checkpoints: where its parts lie, and what their shapes say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsevit.errors import CheckpointMismatch
from sparsevit.tasks.foreign import ForeignCheckpoint

NECK, VIEW = "img_neck.", "img_view_transformer."
ENCODER, ENCODER_NECK = "img_bev_encoder_backbone.", "img_bev_encoder_neck."
CENTER = "pts_bbox_head."
PARTS = {
    "head.neck.": NECK,
    "head.view.depthnet.": VIEW + "depthnet.",
    "head.encoder.": ENCODER,
    "head.encoder_neck.": ENCODER_NECK,
    "head.center.": CENTER,
}
"""Ours to theirs; within a part all names are the same."""
STAGES = 3


def head_of(
    checkpoint: ForeignCheckpoint,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]] | None:
    """(widths, grid, names) of a detector as BEVDet stores it; None where it is none.

    The grid is in the file where it is of the first release; else it is BEVDet-Tiny's, with as many
    depths as the file has. CheckpointMismatch for such a file with another encoder, or whose
    backbone has other than two output stages.
    """
    marks = (VIEW + "depthnet.weight", CENTER + "shared_conv.conv.weight")
    around = next(
        (a for a in checkpoint.around if all(a + mark in checkpoint.tensors for mark in marks)),
        None,
    )
    if around is None:
        return None

    def tensor(name: str) -> Tensor:
        try:
            return checkpoint.tensors[around + name]
        except KeyError:
            raise CheckpointMismatch(
                f"{checkpoint.name} looks like BEVDet, and lacks {around}{name}."
            ) from None

    if len(checkpoint.backbone.normed) != 2:
        raise CheckpointMismatch(
            f"{checkpoint.name}: BEVDet takes two stages of its backbone; this one returns "
            f"{len(checkpoint.backbone.normed)}."
        )
    firsts = [tensor(f"{ENCODER}layers.{stage}.0.conv1.weight") for stage in range(STAGES)]
    depthnet = tensor(VIEW + "depthnet.weight")
    _check_shapes(checkpoint.name, [*firsts, depthnet])
    seen = firsts[0].shape[1]
    widths = {
        "neck": depthnet.shape[1],
        "seen": seen,
        "encoder": [first.shape[0] for first in firsts],
        "above": len(tensor(ENCODER_NECK + "up2.4.bias")),
        "center": len(tensor(CENTER + "shared_conv.conv.weight")),
    }
    grid: dict[str, Any] = {"depths": depthnet.shape[0] - seen}
    if around + VIEW + "dx" in checkpoint.tensors:
        grid |= _grid(checkpoint.name, *(tensor(VIEW + part) for part in ("dx", "bx", "nx")))
        grid |= _depths(checkpoint.name, tensor(VIEW + "frustum"))
    return widths, grid, {ours: around + theirs for ours, theirs in PARTS.items()}


def _check_shapes(name: str, convolutions: list[Tensor]) -> None:
    if any(tensor.ndim != 4 for tensor in convolutions):
        raise CheckpointMismatch(f"{name}: convolutions of BEVDet's head have another shape.")


def _grid(name: str, size: Tensor, first: Tensor, count: Tensor) -> dict[str, Any]:
    """Of the cells (x, y, z): their size, the middle of the first, and how many there are."""
    square = all(len(part) == 3 and part[0] == part[1] for part in (size, first, count))
    middle = square and torch.allclose(first.double(), size * (1 - count.double()) / 2, atol=1e-3)
    if not middle or count[2] != 1:
        raise CheckpointMismatch(
            f"{name}: its map from above is no square around the car of a single layer."
        )
    return {
        "cells": round(count[0].item()),
        "cell": round(size[0].item(), 6),
        "height": round(size[2].item() / 2, 6),
    }


def _depths(name: str, frustum: Tensor) -> dict[str, Any]:
    """Of the points of a feature map [D, h, w, (x, y, depth)]."""
    depths = (
        frustum[:, 0, 0, 2].double() if frustum.ndim == 4 and frustum.numel() else torch.zeros(0)
    )
    steps = depths.diff()
    if not len(steps) or not torch.allclose(steps, steps[0], atol=1e-3):
        raise CheckpointMismatch(f"{name}: its depths are not evenly spaced.")
    return {"nearest": round(depths[0].item(), 6), "step": round(steps[0].item(), 6)}
