"""Small models of the real libraries around a Swin, all parameters random, in double precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsevit.integrations.sparsify import find_backbone
from sparsevit.sparsity.config import SparsityConfig
from tests.sparsevit.checkpoints.networks import randomise, transformers

SHAPE = {"embed_dim": 8, "depths": [2, 4, 2], "num_heads": [1, 2, 4], "image_size": 64}
STAGES = ["stage1", "stage2", "stage3"]
# Nothing is padded in any stage of three or four; all stages are padded; the last fits a window.
EVEN, PADDED, SMALL = (224, 224), (256, 320), (112, 112)


def swin_config(**other: Any):
    return transformers().SwinConfig(**(SHAPE | {"out_features": STAGES, "num_labels": 5} | other))


def four_stages():
    """MaskFormer and Mask2Former are built for four feature maps."""
    stages = [*STAGES, "stage4"]
    return swin_config(depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 4], out_features=stages)


def swin_model() -> nn.Module:
    return ready(transformers().SwinModel(swin_config()))


def swin_backbone(**other: Any) -> nn.Module:
    return ready(transformers().SwinBackbone(swin_config(**other)))


def classifier(**other: Any) -> nn.Module:
    return ready(transformers().SwinForImageClassification(swin_config(**other)))


def upernet(num_labels: int = 5) -> nn.Module:
    t = transformers()
    config = t.UperNetConfig(
        backbone_config=swin_config(),
        hidden_size=16,
        pool_scales=[1, 2],
        auxiliary_channels=8,
        auxiliary_in_channels=32,
        num_labels=num_labels,
    )
    return ready(t.UperNetForSemanticSegmentation(config))


def mask2former_config(backbone_config: Any, num_labels: int = 5):
    return transformers().Mask2FormerConfig(
        backbone_config=backbone_config,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=4,
        num_labels=num_labels,
    )


def mask2former(num_labels: int = 5) -> nn.Module:
    t = transformers()
    config = mask2former_config(four_stages(), num_labels)
    return ready(t.Mask2FormerForUniversalSegmentation(config))


def maskformer() -> nn.Module:
    t = transformers()
    decoder = t.MaskFormerDetrConfig(
        encoder_layers=1,
        decoder_layers=1,
        d_model=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=4,
    )
    config = t.MaskFormerConfig(
        backbone_config=four_stages(),
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
        num_labels=5,
    )
    return ready(t.MaskFormerForInstanceSegmentation(config))


def ready(model: nn.Module) -> nn.Module:
    """Random in double precision; transformers' eager attention would take the softmax in fp32."""
    for module in randomise(model).double().modules():
        if isinstance(module, transformers().SwinModel):
            module.set_attn_implementation("sdpa")
    return model


def images(size: tuple[int, int], batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64)


def run(model: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """Every tensor that a model returns, by name."""
    with torch.no_grad():
        output = model(pixels)
    if isinstance(output, Tensor):
        return {"logits": output}
    maps = {f"map{i}": x for i, x in enumerate(output.get("feature_maps") or ())}
    return maps | {name: x for name, x in output.items() if isinstance(x, Tensor)}


def assert_equal_outputs(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: float = 1e-10
) -> None:
    assert theirs
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        assert (ours[name] - expected).abs().max() <= relative * expected.abs().max(), name


def half(model: nn.Module) -> SparsityConfig:
    """Half of the windows of every block of the SparseSwin inside."""
    return SparsityConfig.uniform(find_backbone(model).config.pairs, 0.5, "l2")
