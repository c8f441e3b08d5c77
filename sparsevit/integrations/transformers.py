"""SparseSwin among the models of Hugging Face transformers.

Importing this module makes "sparse_swin" known to AutoConfig, AutoBackbone, AutoModel and
AutoModelForImageClassification: a saved model loads wherever it was imported before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.models.swin.modeling_swin import SwinImageClassifierOutput, SwinModelOutput

from sparsevit.deploy import DeployConfig
from sparsevit.errors import ConfigError
from sparsevit.integrations.transformers_config import (
    HostedSwin,
    SparseSwinConfig,
    feature_stages,
)
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.attention import WindowAttention
from sparsevit.swin.layers import PatchEmbed


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
        self.sparse_swin.set_sparsity(config)

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
        # Contiguous, as theirs: on channels-last maps torch's GroupNorm on a CPU loses 2 digits.
        maps = tuple(features_BCHW.contiguous() for features_BCHW in maps)
        output = BackboneOutput(feature_maps=maps, hidden_states=hidden)
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
