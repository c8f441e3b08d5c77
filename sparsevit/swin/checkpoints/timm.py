"""timm from 0.9 on: a stage begins with the merge that the original ends the stage before with.

`features_only` wraps the stages, so that their list becomes names: `layers_0`. It drops the norm.
"""

from __future__ import annotations

from sparsevit.swin.checkpoints.dialect import Dialect, names

TIMM = Dialect(
    name="timm",
    title="timm",
    names=names(
        patch=("patch_embed.proj", "patch_embed.norm"),
        block="layers.{stage}.blocks.{block}",
        merge="layers.{next}.downsample",
    ),
    final_norms=("norm",),
    small_map="axis",
)

TIMM_FEATURES = Dialect(
    name="timm-features",
    title="timm with features_only",
    names=names(
        patch=("patch_embed.proj", "patch_embed.norm"),
        block="layers_{stage}.blocks.{block}",
        merge="layers_{next}.downsample",
    ),
    small_map="axis",
)
