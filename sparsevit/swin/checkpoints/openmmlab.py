"""OpenMMLab: mmdet, mmseg, mmpretrain (mmcls), BEVDet, and the SparseViT code released with the paper.

Its patch merging gathers by nn.Unfold. A classifier's only norm is called as a detector's last one;
early mmcls called it `norm`.
"""

from __future__ import annotations

from sparsevit.swin.checkpoints.dialect import TABLE, Dialect, names

OPENMMLAB = Dialect(
    name="openmmlab",
    title="OpenMMLab",
    names=names(
        patch=("patch_embed.projection", "patch_embed.norm"),
        block="stages.{stage}.blocks.{block}",
        merge="stages.{stage}.downsample",
        inside={
            "attn.qkv": "attn.w_msa.qkv",
            "attn.proj": "attn.w_msa.proj",
            TABLE: "attn.w_msa.relative_position_bias_table",
            "mlp.fc1": "ffn.layers.0.0",
            "mlp.fc2": "ffn.layers.1",
        },
    ),
    stage_norm="norm{stage}",
    final_norms=("norm{stage}", "norm"),
    positions=("absolute_pos_embed",),
    unfold_merge=True,
)
