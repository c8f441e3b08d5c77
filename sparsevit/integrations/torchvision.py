"""torchvision's Swin (torchvision.models.swin_transformer) as a SparseSwin."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sparsevit.errors import ConfigError
from sparsevit.integrations.convert import ClassifierFeatures, swin_blocks, to_sparse_swin
from sparsevit.swin.model import SparseSwin


def from_torchvision(model: nn.Module) -> SparseSwin:
    """A dense SparseSwin in eval mode with copies of the weights of a torchvision Swin classifier.

    Maps are [B, C, H, W], each after its output norm: the classifier's norm is the last stage's, the
    others start untrained (weight 1, bias 0), so their maps are torchvision's layer-normed.
    Raises ConfigError for windows that are not square and layers that SparseSwin does not compute
    (V2), CheckpointMismatch where the weights are not those of one Swin.
    """
    return _convert(model, None).eval()


def swap(model: nn.Module, around: Sequence[nn.Module]) -> None:
    """Puts a SparseSwin in the place of `features` and `norm` of a SwinTransformer; its head stays."""
    if not isinstance(model.norm, nn.LayerNorm):
        raise ConfigError(f"{type(model).__name__} has lost its norm: sparsify the whole model.")
    # features: the patch embedding, then the blocks of each stage with a merge between two stages.
    last = len(model.features) // 2 - 1
    backbone = _convert(model, (last,))
    model.features, model.norm = ClassifierFeatures(backbone), nn.Identity()


def _convert(model: nn.Module, out_stages: Sequence[int] | None) -> SparseSwin:
    swin_blocks(model, "torchvision")
    return to_sparse_swin(model, small_map="axis", out_stages=out_stages)
