"""SparseSwin as a backbone of OpenMMLab (mmdetection, mmsegmentation, mmpretrain).

Importing this module registers `SparseSwinTransformer`; in a config file:

    custom_imports = dict(imports=["sparsevit.integrations.openmmlab"])
    model = dict(backbone=dict(type="SparseSwinTransformer", ...))

Not tried with a real OpenMMLab: none was at hand. The tests use a stand-in for its registry.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sparsevit.deploy import DeployConfig
from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import DEFAULT_SCORE, SparsityConfig
from sparsevit.swin.checkpoints.load import load_backbone
from sparsevit.swin.checkpoints.recognise import find
from sparsevit.swin.checkpoints.translate import translate
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

# Children of mmengine's registry find what is in their root. Before it, each library had its own.
ROOT = ("mmengine.registry", "MODELS")
OLDER = (
    ("mmdet.models.builder", "BACKBONES"),
    ("mmseg.models.builder", "BACKBONES"),
    ("mmcls.models.builder", "BACKBONES"),
)
THEIR_PATCHES = "patch_embed.projection.weight"


class SparseSwinTransformer(nn.Module):
    """SparseSwin with the argument names of OpenMMLab's SwinTransformer.

    forward(images [B, in_channels, H, W]) -> a tuple of one map [B, C, h, w] for each of
    out_indices, after its norm. Its arguments for dropout, frozen stages and checkpointing do not
    exist here: leave them out of the config.

    init_cfg: None, or dict(type="Pretrained", checkpoint=PATH); pretrained: the same PATH, as older
    configs say it. `init_weights` reads it, in any naming that `sparsevit.load_backbone` reads. The
    state dict of a model with OpenMMLab's own SwinTransformer (`load_from`) is translated too.
    sparsity: [stage][block pair] as in a config JSON, None = dense; score: what ranks windows.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int = 4,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        pretrained: str | None = None,
        init_cfg: Mapping[str, Any] | None = None,
        sparsity: Sequence[Sequence[float]] | None = None,
        score: str = DEFAULT_SCORE,
    ) -> None:
        super().__init__()
        architecture = SwinConfig(
            in_channels=in_channels,
            embed_dim=embed_dims,
            patch_size=patch_size,
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            qkv_bias=qkv_bias,
        )
        self.checkpoint = _checkpoint(pretrained, init_cfg)
        self.backbone = SparseSwin(architecture, out_indices)
        config = SparsityConfig.dense(architecture.pairs, score)
        if sparsity is not None:
            config = SparsityConfig.from_dict({"sparsity": sparsity, "score": score})
        self.set_sparsity(config)
        self.register_load_state_dict_pre_hook(_translate)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        # Contiguous, as theirs: on channels-last maps torch's GroupNorm on a CPU loses 2 digits.
        return tuple(features_BCHW.contiguous() for features_BCHW in self.backbone(images_BCHW))

    def set_sparsity(self, config: SparsityConfig | DeployConfig) -> None:
        """Applies ratios and score to every later forward; ConfigError where they do not fit."""
        self.backbone.set_sparsity(config)

    def init_weights(self) -> None:
        """Reads the checkpoint, if one is set; OpenMMLab calls this once before training.

        Raises a CheckpointError where it cannot be read, ConfigError where it is another Swin.
        Another window size is resized to ours, with a UserWarning.
        """
        if self.checkpoint is None:
            return
        ours = self.backbone.config
        loaded = load_backbone(
            self.checkpoint, window_size=ours.window_size, small_map=ours.small_map
        )
        if loaded.config != ours:
            raise ConfigError(
                f"{self.checkpoint} is another Swin than the config of this backbone: "
                f"{loaded.config} against {ours}."
            )
        weights = loaded.state_dict()
        self.backbone.load_state_dict({key: weights[key] for key in self.backbone.state_dict()})
        self.backbone.load_report = loaded.load_report


def _checkpoint(pretrained: str | None, init_cfg: Mapping[str, Any] | None) -> str | None:
    if init_cfg is None:
        return pretrained
    if pretrained is not None:
        raise ConfigError("pretrained and init_cfg both name a checkpoint: leave one of them out.")
    known = init_cfg.get("type") == "Pretrained" and init_cfg.keys() == {"type", "checkpoint"}
    if not known:
        raise ConfigError(
            f'init_cfg is {dict(init_cfg)}; it is dict(type="Pretrained", checkpoint=PATH). (No '
            "prefix: the Swin is found in the file by itself.)"
        )
    return init_cfg["checkpoint"]


def _translate(
    module: SparseSwinTransformer, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Renames the tensors of OpenMMLab's SwinTransformer, before they are loaded, to ours."""
    if prefix + THEIR_PATCHES not in state_dict:
        return
    theirs = {
        key.removeprefix(prefix): state_dict.pop(key)
        for key in list(state_dict)
        if key.startswith(prefix)
    }
    name = "the state dict"
    place, _choice = find(theirs, name)
    found = translate(theirs, place, name)
    # A norm of a stage that is not returned goes along: load_state_dict reports it as unexpected.
    state_dict |= {f"{prefix}backbone.{key}": tensor for key, tensor in found.own.items()}


def register() -> tuple[str, ...]:
    """Registers the backbone in the registries of what OpenMMLab is installed; returns their names.

    Calling it again changes nothing. Where nothing is installed, nothing happens.
    """
    root = _register_in(*ROOT)
    return root or tuple(name for place in OLDER for name in _register_in(*place))


def _register_in(module: str, attribute: str) -> tuple[str, ...]:
    try:
        registry = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, but lacks a module of another package: for its user to see
        return ()
    if SparseSwinTransformer.__name__ not in registry.module_dict:
        registry.register_module(module=SparseSwinTransformer)
    return (f"{module}.{attribute}",)


REGISTERED = register()
