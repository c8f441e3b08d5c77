"""Swin as other libraries run it, for the benchmarks: whatever of them is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import nn

from sparsevit.swin.config import SwinConfig


def transformers_backbone(config: SwinConfig, size: tuple[int, int]) -> nn.Module:
    from transformers import SwinBackbone
    from transformers import SwinConfig as HFConfig

    return SwinBackbone(
        HFConfig(
            embed_dim=config.embed_dim,
            depths=list(config.depths),
            num_heads=list(config.num_heads),
            window_size=config.window_size,
            out_features=[f"stage{i + 1}" for i in range(len(config.depths))],
        )
    )


def timm_backbone(config: SwinConfig, size: tuple[int, int]) -> nn.Module:
    import timm

    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        features_only=True,
        img_size=size,
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=config.window_size,
    )


PEERS: dict[str, Callable[[SwinConfig, tuple[int, int]], nn.Module]] = {
    "transformers": transformers_backbone,
    "timm": timm_backbone,
}


def installed_peers(config: SwinConfig, size: tuple[int, int]) -> dict[str, nn.Module]:
    """Dense backbones of all peers that import here, fresh weights, eval mode."""
    _make_torchvision_importable()
    found = {}
    for name, build in PEERS.items():
        try:
            found[name] = build(config, size).eval()
        except ImportError as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=2)
    return found


def _make_torchvision_importable() -> None:
    """timm and transformers import torchvision where it is installed; see tests/oracles.py."""
    from tests.oracles import import_torchvision

    try:
        import_torchvision()
    except ModuleNotFoundError:
        return
