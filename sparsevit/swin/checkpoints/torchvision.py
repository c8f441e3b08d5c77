"""torchvision: one list holds the patch embedding, then blocks and merges in turn."""

from __future__ import annotations

from sparsevit.swin.checkpoints.dialect import Dialect, names

TORCHVISION = Dialect(
    name="torchvision",
    title="torchvision",
    names=names(
        patch=("features.0.0", "features.0.2"),
        block="features.{odd}.{block}",
        merge="features.{even}",
        inside={"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"},
    ),
    final_norms=("norm",),
    small_map="axis",
)
