"""Semantic segmentation by transformers' UperNet (Xiao et al., 2018, arXiv 1807.10221)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsevit.data.preprocess import Preprocess
from sparsevit.errors import ConfigError
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks import huggingface
from sparsevit.tasks.base import check_class_names
from sparsevit.tasks.foreign import ForeignCheckpoint, ForeignHead
from sparsevit.tasks.semantic import MAX_CLASSES, SemanticModel, pixel_loss, stacked, upsampled

SETTINGS: dict[str, huggingface.Check] = {
    "hidden_size": huggingface.MAX_WIDTH,
    "pool_scales": list,
    "use_auxiliary_head": bool,
    "auxiliary_loss_weight": float,
    "auxiliary_in_channels": huggingface.MAX_WIDTH,
    "auxiliary_channels": huggingface.MAX_WIDTH,
    "auxiliary_num_convs": huggingface.MAX_LAYERS,
    "auxiliary_concat_input": bool,
}
AUXILIARY_MAP = 2  # of the backbone's maps, the one that the auxiliary head sees


class UperNetHead(nn.Module):
    """transformers' heads on feature maps: the logits [B, classes, h, w] of the finest map."""

    def __init__(self, settings: dict[str, Any], dims: Sequence[int], classes: int) -> None:
        from transformers import UperNetConfig
        from transformers.models.upernet import modeling_upernet as theirs

        super().__init__()
        config = UperNetConfig(**settings, num_labels=classes)
        self.decode_head = theirs.UperNetHead(config, in_channels=dims)
        self.auxiliary_head: nn.Module | None = None
        self.auxiliary_weight = config.auxiliary_loss_weight
        if config.use_auxiliary_head:
            if len(dims) <= AUXILIARY_MAP:
                raise ConfigError(f"the auxiliary head needs {AUXILIARY_MAP + 1} feature maps.")
            self.auxiliary_head = theirs.UperNetFCNHead(config, in_channels=dims)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.decode_head(list(features))


class UperNet(SemanticModel):
    """SparseSwin with the heads of transformers' UperNetForSemanticSegmentation.

    Upsampled to the image's size, bilinearly, its outputs are that model's logits; scores are
    upsampled to the labels' size at once. The auxiliary head runs in training only.
    settings: fields of UperNetConfig (SETTINGS); what is left out is transformers' default.
    """

    def __init__(
        self,
        backbone: SparseSwin,
        class_names: Sequence[str],
        settings: dict[str, Any] | None = None,
        *,
        preprocess: Preprocess | None = None,
    ) -> None:
        check_class_names(class_names, MAX_CLASSES)
        self.settings = dict(settings or {})
        huggingface.check_settings(self.settings, SETTINGS)
        dims = [backbone.config.dims[stage] for stage in backbone.out_stages]
        head = huggingface.built(lambda: UperNetHead(self.settings, dims, len(class_names)))
        super().__init__(backbone, head, preprocess or Preprocess())
        self.class_names = tuple(class_names)

    def loss(self, images_BCHW: Tensor, targets: Sequence[np.ndarray]) -> Tensor:
        """Mean cross entropy over the pixels that count, and in training .4 (auxiliary_loss_weight)
        times that of the auxiliary head.

        Of one image, the pyramid pooling gives batch norm a single value a channel, which has no
        variance. Its norms then use their running statistics, as in evaluation: at the resolutions of
        segmentation a batch of one is common, and refusing it would rule these models out.
        """
        self.head.decode_head.psp_modules.train(self.training and len(images_BCHW) > 1)
        features = self.backbone(images_BCHW)
        labels_BHW = stacked(targets, images_BCHW.device)
        weight = torch.ones(len(self.class_names), device=images_BCHW.device)
        loss = pixel_loss(self.head(features), labels_BHW, weight)
        if self.training and self.head.auxiliary_head is not None:
            logits = self.head.auxiliary_head(features)
            loss = loss + self.head.auxiliary_weight * pixel_loss(logits, labels_BHW, weight)
        return loss

    def crop_scores(self, outputs: Tensor, crop: int, size: Sequence[int]) -> Tensor:
        return upsampled(outputs[crop : crop + 1].float(), size)[0]

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "model": "upernet",
            "class_names": list(self.class_names),
            "settings": self.settings,
        }

    @classmethod
    def from_description(
        cls, backbone: SparseSwin, document: dict[str, Any], preprocess: Preprocess
    ) -> UperNet:
        return cls(backbone, document["class_names"], document["settings"], preprocess=preprocess)

    @classmethod
    def head_in(cls, checkpoint: ForeignCheckpoint) -> ForeignHead | None:
        """A folder of transformers whose config.json is UperNet's."""
        config = checkpoint.config or {}
        if config.get("model_type") != "upernet":
            return None
        settings = huggingface.settings_of(config, SETTINGS, checkpoint.name)
        heads = ("decode_head.", "auxiliary_head.")
        names = huggingface.class_names(checkpoint, "decode_head.classifier")
        return ForeignHead(
            description={
                "task": cls.task,
                "model": "upernet",
                "class_names": names,
                "settings": settings,
            },
            names={f"head.{head}": head for head in heads},
            out_stages=huggingface.out_stages(checkpoint),
        )
