"""SparseSwin among the models of Hugging Face transformers.

Importing this module makes "sparse_swin" known to AutoConfig, AutoBackbone, AutoModel and
AutoModelForImageClassification: a saved model loads wherever it was imported before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.models.swin.modeling_swin import SwinImageClassifierOutput, SwinModelOutput

from sparsevit.deploy import DeployConfig
from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import DEFAULT_SCORE, SparsityConfig
from sparsevit.swin.attention import WindowAttention
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.layers import PatchEmbed
from sparsevit.swin.model import SparseSwin

ARCHITECTURE = ("patch_size", "embed_dim", "window_size", "mlp_ratio", "qkv_bias", "small_map")
STEM = "stem"


class SparseSwinConfig(BackboneConfigMixin, PretrainedConfig):
    """Architecture and sparsity of a SparseSwin, as transformers keep it in config.json.

    Names are those of transformers' SwinConfig; small_map and absolute_positions those of
    sparsevit.SwinConfig. sparsity: [stage][block pair], None = dense. score: what ranks windows.
    out_features or out_indices: the stages of `stage1`, ... whose maps the backbone returns (the
    last by default). There is no dropout: SparseSwin has none.
    """

    model_type = "sparse_swin"
    attribute_map = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}  # noqa: RUF012

    num_channels: int = 3
    patch_size: int = 4
    embed_dim: int = 96
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_heads: list[int] | tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    small_map: str = "shift"
    absolute_positions: list[int] | tuple[int, int] | None = None
    sparsity: list[list[float]] | None = None
    score: str = DEFAULT_SCORE
    initializer_range: float = 0.02
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_layers = len(self.depths)
        self.hidden_size = self.embed_dim * 2 ** (self.num_layers - 1)
        self.stage_names = [STEM, *(f"stage{i + 1}" for i in range(self.num_layers))]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None),
            out_indices=kwargs.pop("out_indices", None),
        )
        super().__post_init__(**kwargs)

    @property
    def architecture(self) -> SwinConfig:
        """What SparseSwin is built from; ConfigError where it is no Swin."""
        positions = self.absolute_positions
        return SwinConfig(
            in_channels=self.num_channels,
            depths=tuple(self.depths),
            num_heads=tuple(self.num_heads),
            absolute_positions=None if positions is None else tuple(positions),
            **{field: getattr(self, field) for field in ARCHITECTURE},
        )

    @classmethod
    def from_architecture(cls, architecture: SwinConfig, **other: Any) -> SparseSwinConfig:
        """The config of a SparseSwin; `other` are further fields of it."""
        fields = architecture.to_dict()
        return cls(num_channels=fields.pop("in_channels"), **fields, **other)

    @property
    def ratios(self) -> SparsityConfig:
        """The sparsity to apply; ConfigError where it makes no sense."""
        if self.sparsity is None:
            return SparsityConfig.dense(self.architecture.pairs, self.score)
        return SparsityConfig.from_dict({"sparsity": self.sparsity, "score": self.score})


class HostedSwin(SparseSwin):
    """A SparseSwin that writes its sparsity into a transformers config, wherever it is set.

    So `save_pretrained` of the model around it keeps what is applied.
    """

    def __init__(self, settings: SparseSwinConfig, out_stages: Sequence[int] | None) -> None:
        super().__init__(settings.architecture, out_stages)
        self.settings = settings
        self.raw: list[Tensor] | None = None  # un-normed maps, while someone collects them
        self.set_sparsity(settings.ratios)

    def set_sparsity(self, sparsity: SparsityConfig) -> None:
        super().set_sparsity(sparsity)
        stages = None if sparsity.is_dense else [list(stage) for stage in sparsity.ratios]
        self.settings.sparsity, self.settings.score = stages, sparsity.score

    def outputs(self, stage: int, x_BHWC: Tensor) -> list[Tensor]:
        if self.raw is not None:
            self.raw.append(x_BHWC.permute(0, 3, 1, 2))
        return super().outputs(stage, x_BHWC)

    def with_hidden_states(self, images_BCHW: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """The maps, and the patch embedding and every stage's output before its norm."""

        def keep(_module: nn.Module, _args: Any, tokens_BHWC: Tensor) -> None:
            # The first stage writes into the tokens themselves where it can.
            self.raw = [tokens_BHWC.clone().permute(0, 3, 1, 2)]

        handle = self.patch_embed.register_forward_hook(keep)
        try:
            maps = self(images_BCHW)
            return maps, tuple(self.raw or ())
        finally:
            handle.remove()
            self.raw = None


class SparseSwinPreTrainedModel(PreTrainedModel):
    """What the models below share: config, input, initial values, sparsity."""

    config: SparseSwinConfig
    config_class = SparseSwinConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, WindowAttention):
            init.trunc_normal_(module.relative_position_bias_table, std=std)
        if isinstance(module, PatchEmbed) and module.absolute_pos_embed is not None:
            init.trunc_normal_(module.absolute_pos_embed, std=std)

    @property
    def sparse_swin(self) -> HostedSwin:
        """The SparseSwin inside."""
        return next(module for module in self.modules() if isinstance(module, HostedSwin))

    @property
    def gradient_checkpointing(self) -> bool:
        """Set by transformers' gradient_checkpointing_enable(), of the model around this one too."""
        return self.sparse_swin.layers[0].activation_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enabled: bool) -> None:
        self.sparse_swin.set_activation_checkpointing(enabled)

    def set_sparsity(self, config: SparsityConfig | DeployConfig) -> None:
        """Applies ratios and score to every later forward and writes them into the config.

        Of a DeployConfig, neither weights nor preprocessing are compared: a transformers model does
        not say which file it is. ConfigError where it was made for another architecture.
        """
        self.sparse_swin.set_sparsity(
            config.sparsity if isinstance(config, DeployConfig) else config
        )

    @property
    def executed_windows(self) -> tuple[tuple[int, ...], ...]:
        """Windows per image that each block computed in the last forward, [stage][block]."""
        executed = self.sparse_swin.executed_windows
        if executed is None:
            raise ConfigError("the model has not run yet: call it once before executed_windows.")
        return executed


class SparseSwinBackbone(BackboneMixin, SparseSwinPreTrainedModel):
    """SparseSwin as a transformers backbone, for UperNet, MaskFormer, Mask2Former and others.

    forward(pixel_values [B, 3, H, W]) -> BackboneOutput with one map [B, C, h, w] of each of
    `out_features`, after its norm. Features equal SwinBackbone's where nothing is skipped.
    ConfigError for `stem` among the out_features: the patch embedding has no output norm.
    """

    def __init__(self, config: SparseSwinConfig) -> None:
        super().__init__(config)
        stages = feature_stages(config)
        architecture = config.architecture
        self.num_features = [architecture.embed_dim, *architecture.dims]
        self.backbone = HostedSwin(config, stages)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """hidden_states, if asked for: the patch embedding and every stage's output before its norm,
        each [B, C, h, w]. ConfigError for attentions."""
        refuse_attentions(self.config, output_attentions)
        hidden = None
        if _either(output_hidden_states, self.config.output_hidden_states):
            maps, hidden = self.backbone.with_hidden_states(pixel_values)
        else:
            maps = self.backbone(pixel_values)
        output = BackboneOutput(feature_maps=tuple(maps), hidden_states=hidden)
        return output if _either(return_dict, self.config.return_dict) else output.to_tuple()


class SparseSwinModel(SparseSwinPreTrainedModel):
    """SparseSwin in the place of transformers' SwinModel: the last stage as a sequence, and its mean.

    forward(pixel_values [B, 3, H, W]) -> SwinModelOutput with last_hidden_state [B, h * w, C] and
    pooler_output [B, C].
    """

    def __init__(self, config: SparseSwinConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.num_layers = len(config.depths)
        self.num_features = config.hidden_size
        self.backbone = HostedSwin(config, (self.num_layers - 1,))
        self.pooler = nn.AdaptiveAvgPool1d(1) if add_pooling_layer else None
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = True,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SwinModelOutput | tuple[Any, ...]:
        """interpolate_pos_encoding: absolute positions are always resized to the image, so there is
        nothing to choose. ConfigError for attentions and hidden states."""
        refuse_attentions(self.config, output_attentions)
        _refuse_hidden_states(self.config, output_hidden_states)
        (features_BCHW,) = self.backbone(pixel_values)
        tokens_BCL = features_BCHW.flatten(2)
        pooled = None if self.pooler is None else self.pooler(tokens_BCL).flatten(1)
        output = SwinModelOutput(last_hidden_state=tokens_BCL.transpose(1, 2), pooler_output=pooled)
        return output if _either(return_dict, self.config.return_dict) else output.to_tuple()


class SparseSwinForImageClassification(SparseSwinPreTrainedModel):
    """SparseSwin in the place of the Swin of transformers' SwinForImageClassification."""

    base_model_prefix = "swin"

    def __init__(self, config: SparseSwinConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.swin = SparseSwinModel(config)
        width, labels = self.swin.num_features, config.num_labels
        self.classifier = nn.Linear(width, labels) if labels > 0 else nn.Identity()
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = True,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SwinImageClassifierOutput | tuple[Any, ...]:
        """logits [B, labels], and the loss where `labels` [B] are given; else as SparseSwinModel."""
        outputs = self.swin(
            pixel_values,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        output = SwinImageClassifierOutput(loss=loss, logits=logits)
        return output if _either(return_dict, self.config.return_dict) else output.to_tuple()


def feature_stages(config: Any) -> tuple[int, ...]:
    """Stages, counted from 0, of a backbone config's out_features; ConfigError for `stem`."""
    if STEM in config.out_features:
        raise ConfigError(
            "SparseSwin cannot give `stem`: take it out of the backbone's out_features."
        )
    return tuple(config.stage_names.index(name) - 1 for name in config.out_features)


def _either(asked: bool | None, configured: bool) -> bool:
    return configured if asked is None else asked


def refuse_attentions(config: SparseSwinConfig, asked: bool | None) -> None:
    """ConfigError where a caller or the config asks for attention maps."""
    if _either(asked, config.output_attentions):
        raise ConfigError("SparseSwin keeps no attention maps: leave output_attentions out.")


def _refuse_hidden_states(config: SparseSwinConfig, asked: bool | None) -> None:
    if _either(asked, config.output_hidden_states):
        raise ConfigError(
            "this model keeps no hidden states: leave output_hidden_states out, or take a "
            "SparseSwinBackbone, which returns them."
        )


def register() -> None:
    """Makes the models known to transformers' Auto classes; calling it again changes nothing."""
    AutoConfig.register(SparseSwinConfig.model_type, SparseSwinConfig, exist_ok=True)
    for auto, model in (
        (AutoBackbone, SparseSwinBackbone),
        (AutoModel, SparseSwinModel),
        (AutoModelForImageClassification, SparseSwinForImageClassification),
    ):
        auto.register(SparseSwinConfig, model, exist_ok=True)


register()
