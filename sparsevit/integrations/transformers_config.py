"""What transformers keep of a SparseSwin: its config, and a SparseSwin that keeps it up to date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from sparsevit.deploy import DeployConfig
from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import DEFAULT_SCORE, SparsityConfig
from sparsevit.swin.config import SwinConfig
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

    def set_sparsity(self, config: SparsityConfig | DeployConfig) -> None:
        super().set_sparsity(config)
        sparsity = self.sparsity
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


def feature_stages(config: Any) -> tuple[int, ...]:
    """Stages, counted from 0, of a backbone config's out_features; ConfigError for `stem`."""
    if STEM in config.out_features:
        raise ConfigError(
            "SparseSwin cannot give `stem`: take it out of the backbone's out_features."
        )
    return tuple(config.stage_names.index(name) - 1 for name in config.out_features)
