"""Other libraries' Swin with the weights of ours: oracles for dense features.

The names are written out here once more, apart from the product's checkpoint tables.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

HF_NAMES = (
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.norm", "patch_embed.norm"),
    ("encoder.layers", "layers"),
    ("attention.relative_position_bias.relative", "attn.relative"),
    ("attention.o_proj", "attn.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
)


def random_model(
    dtype: torch.dtype = torch.float64, device: str = "cpu", **architecture
) -> SparseSwin:
    """Random weights everywhere, LayerNorm affine and bias tables too, at scales that keep
    activations near one through any depth."""
    torch.manual_seed(0)
    model = SparseSwin(SwinConfig(**architecture)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if name.endswith("bias_table"):
                parameter.copy_(0.5 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise + (".norm" in name and name.endswith("weight")))
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model.to(device, dtype)


def hf_backbone(model: SparseSwin) -> nn.Module:
    """transformers' SwinBackbone: every stage's normed map, shifted at any size."""
    from transformers import SwinBackbone

    twin = SwinBackbone(_hf_config(model.config))
    return _filled(twin, model, "swin.")


def hf_model(model: SparseSwin) -> nn.Module:
    """transformers' SwinModel: the last stage's normed tokens, no shift where a side fits."""
    from transformers import SwinModel

    twin = SwinModel(_hf_config(model.config), add_pooling_layer=False)
    return _filled(twin, model, "")


def _hf_config(config: SwinConfig):
    from transformers import SwinConfig as HFConfig

    return HFConfig(
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        window_size=config.window_size,
        qkv_bias=config.qkv_bias,
        mlp_ratio=config.mlp_ratio,
        use_absolute_embeddings=False,
        out_features=[f"stage{i + 1}" for i in range(len(config.depths))],
    )


def _filled(twin: nn.Module, model: SparseSwin, prefix: str) -> nn.Module:
    twin.to(next(model.parameters()).dtype).eval()
    twin.set_attn_implementation("sdpa")  # its eager path takes the softmax in single precision
    ours = model.state_dict()
    last = len(model.config.depths) - 1
    state = {
        key: _hf_tensor(key.removeprefix(prefix), ours, last).clone() for key in twin.state_dict()
    }
    twin.load_state_dict(state)
    return twin


def _hf_tensor(name: str, ours: dict[str, Tensor], last: int) -> Tensor:
    for theirs, mine in HF_NAMES:
        name = name.replace(theirs, mine)
    part = name.rsplit(".", 1)[1]
    if "hidden_states_norms.stage" in name:
        return ours[f"norm{int(name.split('stage')[1][0]) - 1}.{part}"]
    if name.startswith("layernorm."):
        return ours[f"norm{last}.{part}"]
    for index, kind in enumerate(("q_proj", "k_proj", "v_proj")):
        if kind in name:
            return ours[name.replace(f"attention.{kind}", "attn.qkv")].chunk(3)[index]
    return ours[name]


def torchvision_features(model: SparseSwin, images: Tensor) -> list[Tensor]:
    """Un-normed stage outputs [B, H, W, C] of torchvision's SwinTransformer."""
    from torchvision.models.swin_transformer import SwinTransformer

    config = model.config
    twin = SwinTransformer(
        patch_size=[config.patch_size] * 2,
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        window_size=[config.window_size] * 2,
        mlp_ratio=config.mlp_ratio,
        stochastic_depth_prob=0.0,
    )
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "patch_embed":
            name = ["features", "0", {"proj": "0", "norm": "2"}[parts[1]], *parts[2:]]
        elif parts[0] == "layers" and parts[2] == "downsample":
            name = ["features", str(2 * int(parts[1]) + 2), *parts[3:]]
        elif parts[0] == "layers":
            name = ["features", str(2 * int(parts[1]) + 1), *parts[3:]]
        elif parts[0] == f"norm{len(config.depths) - 1}":
            name = ["norm", *parts[1:]]
        else:
            continue
        state[".".join(name).replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")] = value
    twin.to(images.dtype).eval()
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("relative_position_index" in key or key.startswith("head.") for key in missing)
    x, maps = images, []
    for index, layer in enumerate(twin.features):
        x = layer(x)
        if index % 2:
            maps.append(x)
    return maps


def timm_features(model: SparseSwin, images: Tensor) -> list[Tensor]:
    """Un-normed stage outputs [B, H, W, C] of timm's SwinTransformer."""
    from timm.models.swin_transformer import SwinTransformer

    config = model.config
    twin = SwinTransformer(
        img_size=tuple(images.shape[-2:]),
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=config.window_size,
        mlp_ratio=config.mlp_ratio,
        num_classes=0,
    )
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) + 1)
        elif parts[0].startswith("norm"):
            if parts[0] != f"norm{len(config.depths) - 1}":
                continue
            parts[0] = "norm"
        state[".".join(parts)] = value
    twin.to(images.dtype).eval()
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not missing
    assert not unexpected
    x, maps = twin.patch_embed(images), []
    for layer in twin.layers:
        if len(maps):
            x = layer.downsample(x)
        x = layer.blocks(x)
        maps.append(x)
    return maps


def stage_outputs(model: SparseSwin, images: Tensor) -> list[Tensor]:
    """Un-normed stage outputs [B, H, W, C] of ours."""
    x, maps = model.patch_embed(images), []
    for stage, levels in zip(model.layers, model.sparsity.levels, strict=True):
        x, _ = model.run_stage(stage, x, levels)
        maps.append(x.clone())
        x = stage.downsample(x) if stage.downsample is not None else x
    return maps


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Over stages, max |difference| over max |reference|."""
    assert len(ours) == len(theirs)
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)
    )
