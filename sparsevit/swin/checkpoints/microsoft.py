"""The original code, whose names are also ours: github.com/microsoft/Swin-Transformer.

Its detection and segmentation ports differ in what they add: an output norm for each stage, and
absolute positions as a grid. timm before 0.9 used these names too.
"""

from __future__ import annotations

from sparsevit.swin.checkpoints.dialect import POSITIONS, Dialect, names

MICROSOFT = Dialect(
    name="microsoft",
    title="the original code",
    names=names(
        patch=("patch_embed.proj", "patch_embed.norm"),
        block="layers.{stage}.blocks.{block}",
        merge="layers.{stage}.downsample",
    ),
    stage_norm="norm{stage}",
    final_norms=("norm",),
    # The second name is that of SparseSwin.state_dict().
    positions=("absolute_pos_embed", POSITIONS),
    grid_positions=True,
)
