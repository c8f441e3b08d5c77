"""Small Swins of the real libraries, all parameters random, and how features are compared."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.swin.model import SparseSwin
from tests.oracles import import_torchvision

SHAPE = {"embed_dim": 8, "depths": [2, 4], "num_heads": [1, 2]}
STAGES = ["stage1", "stage2"]
# The last stage has more than a window each way; fits one window; fits one along one side.
LARGE, ONE_WINDOW, ONE_ROW = (112, 112), (56, 56), (56, 112)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights everywhere, LayerNorms and bias tables too; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module.eval()


def pictures(size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)


def transformers() -> ModuleType:
    """transformers, importable beside any torchvision."""
    import_torchvision()
    return importlib.import_module("transformers")


def swin_config(**other: Any):
    return transformers().SwinConfig(**(SHAPE | {"out_features": STAGES, "image_size": 56} | other))


def swin_backbone(**other: Any):
    return randomise(transformers().SwinBackbone(swin_config(**other)))


def hugging_features(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """Feature maps of a transformers backbone in double precision."""
    backbone = backbone.double()
    if hasattr(backbone, "set_attn_implementation"):
        backbone.set_attn_implementation("sdpa")  # its eager path takes the softmax in fp32
    with torch.no_grad():
        return list(backbone(images).feature_maps)


def untrained_norm(x_BCHW: Tensor) -> Tensor:
    """What an output norm that a file lacks computes."""
    return F.layer_norm(x_BCHW.permute(0, 2, 3, 1), x_BCHW.shape[1:2]).permute(0, 3, 1, 2)


def assert_equal_features(
    model: SparseSwin, images: Tensor, expected: Sequence[Tensor], relative: float = 1e-10
) -> None:
    """Ours in double precision against theirs, map by map from the last one."""
    assert expected
    with torch.no_grad():
        ours = model.double()(images)
    for mine, theirs in zip(ours[-len(expected) :], expected, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).abs().max() <= relative * theirs.abs().max()
