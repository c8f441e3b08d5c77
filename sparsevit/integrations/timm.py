"""timm's Swin (timm.models.swin_transformer, from 0.9 on) as a SparseSwin.

timm rolls a map before it pads it, every other library pads first, and so does SparseSwin: the two
agree where no stage needs padding. timm fixes windows and shifts when a model is built, by its
img_size: they agree at that size.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sparsevit.errors import ConfigError
from sparsevit.integrations.convert import ClassifierFeatures, swin_blocks, to_sparse_swin
from sparsevit.swin.model import SparseSwin


def from_timm(model: nn.Module) -> SparseSwin:
    """A dense SparseSwin in eval mode with copies of the weights of a timm Swin.

    model: a classifier, or what `features_only=True` gives (its stages). Maps are [B, C, H, W], each
    after its output norm: a classifier's norm is the last stage's, the others start untrained
    (weight 1, bias 0), so their maps are timm's layer-normed, not timm's own.
    Raises ConfigError where windows differ by stage or are not square and for layers that SparseSwin
    does not compute (LayerScale); CheckpointMismatch where the weights are not those of one Swin.
    """
    return _convert(model, None).eval()


def swap(model: nn.Module, around: Sequence[nn.Module]) -> None:
    """Puts a SparseSwin in the place of the stages of a timm SwinTransformer; its head stays."""
    if not isinstance(model.norm, nn.LayerNorm):
        raise ConfigError(
            f"{type(model).__name__} has lost its norm (prune_intermediate_layers): sparsify the "
            "whole model."
        )
    last = len(model.layers) - 1
    features = ClassifierFeatures(_convert(model, (last,)))
    model.patch_embed, model.layers, model.norm = nn.Identity(), features, nn.Identity()


def _convert(model: nn.Module, out_stages: Sequence[int] | None) -> SparseSwin:
    blocks = swin_blocks(model, "timm")
    small_map = "shift" if blocks[0].always_partition else "axis"
    return to_sparse_swin(model, small_map=small_map, out_stages=out_stages)
