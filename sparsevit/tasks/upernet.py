"""Semantic segmentation by transformers' UperNet (Xiao et al., 2018, arXiv 1807.10221)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sparsevit.errors import ConfigError
from sparsevit.tasks import huggingface
from sparsevit.tasks.semantic import SemanticModel, pixel_loss, stacked, upsampled
from sparsevit.tasks.transformers_model import TransformersModel

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


class UperNet(TransformersModel, SemanticModel):
    """SparseSwin with the heads of transformers' UperNetForSemanticSegmentation.

    Upsampled to the image's size, bilinearly, its outputs are that model's logits; scores are
    upsampled to the labels' size at once. The auxiliary head runs in training only.
    """

    model_type = registered = "upernet"
    fields = SETTINGS
    head_class = UperNetHead
    head_names: ClassVar[Mapping[str, str]] = {
        f"head.{head}": head for head in ("decode_head.", "auxiliary_head.")
    }
    classifier = "decode_head.classifier"

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
