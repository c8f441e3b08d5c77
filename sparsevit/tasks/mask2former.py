"""transformers' Mask2Former (Cheng et al., CVPR 2022, arXiv 2112.01527), for semantic segmentation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sparsevit.data.cityscapes import CLASS_NAMES as CITY_NAMES
from sparsevit.data.coco import CLASS_NAMES as COCO_NAMES
from sparsevit.data.label_maps import IGNORED
from sparsevit.errors import ConfigError
from sparsevit.tasks import huggingface
from sparsevit.tasks.foreign import ForeignCheckpoint, ForeignHead
from sparsevit.tasks.semantic import SemanticModel, upsampled
from sparsevit.tasks.transformers_model import TransformersModel

SETTINGS: dict[str, huggingface.Check] = {
    "feature_size": huggingface.MAX_WIDTH,
    "mask_feature_size": huggingface.MAX_WIDTH,
    "hidden_dim": huggingface.MAX_WIDTH,
    "encoder_feedforward_dim": huggingface.MAX_WIDTH,
    "dim_feedforward": huggingface.MAX_WIDTH,
    "activation_function": str,
    "encoder_layers": huggingface.MAX_LAYERS,
    "decoder_layers": huggingface.MAX_LAYERS,
    "num_attention_heads": huggingface.MAX_WIDTH,
    "num_queries": huggingface.MAX_WIDTH,
    "dropout": float,
    "pre_norm": bool,
    "enforce_input_projection": bool,
    "common_stride": huggingface.MAX_WIDTH,
    "feature_strides": list,
    "no_object_weight": float,
    "class_weight": float,
    "mask_weight": float,
    "dice_weight": float,
    "train_num_points": huggingface.MAX_POINTS,
    "oversample_ratio": float,
    "importance_sample_ratio": float,
}
NAMES = {
    "head.decoder.": "model.pixel_level_module.decoder.",
    "head.transformer.": "model.transformer_module.",
    "head.class_predictor.": "class_predictor.",
}
MAPS = 4  # that the pixel decoder is made for
INSTANCES = "instance_segmentation"
CITY_THINGS = 8  # the last of Cityscapes' classes, of which it has instances


class Queries(NamedTuple):
    """What each query says: class logits [B, queries, classes + 1], the last for no object, and mask
    logits [B, queries, h, w]."""

    classes: Tensor
    masks: Tensor


class Mask2FormerHead(nn.Module):
    """transformers' pixel decoder, transformer decoder and classifier, on four feature maps."""

    def __init__(self, settings: dict[str, Any], dims: Sequence[int], classes: int) -> None:
        from transformers import Mask2FormerConfig
        from transformers.models.mask2former import modeling_mask2former as theirs

        super().__init__()
        self.config = config = Mask2FormerConfig(**settings, num_labels=classes)
        if len(dims) != MAPS:
            raise ConfigError(f"Mask2Former needs {MAPS} feature maps, not {len(dims)}.")
        if config.enforce_input_projection or config.feature_size != config.hidden_dim:
            # It keeps their projections in a plain list, so that no checkpoint has their weights.
            raise ConfigError(
                "transformers neither trains nor stores the projections between a feature_size and a "
                "hidden_dim that differ, or that enforce_input_projection asks for."
            )
        self.decoder = _pixel_decoder(config, dims)
        self.transformer = theirs.Mask2FormerTransformerModule(config.feature_size, config)
        self.class_predictor = nn.Linear(config.hidden_dim, classes + 1)

    def layers(self, features: Sequence[Tensor]) -> list[Queries]:
        """The predictions of every decoder layer, the last one's last."""
        given, wide = features[0].dtype, next(self.decoder.parameters()).dtype
        with torch.autocast(features[0].device.type, enabled=False):
            pixels = self.decoder([feature.to(wide) for feature in features], return_dict=True)
        decoded = self.transformer(
            multi_scale_features=[maps.to(given) for maps in pixels.multi_scale_features],
            mask_features=pixels.mask_features.to(given),
        )
        found = zip(decoded.intermediate_hidden_states, decoded.masks_queries_logits, strict=True)
        return [Queries(self.class_predictor(x.transpose(0, 1)), masks) for x, masks in found]

    def forward(self, features: Sequence[Tensor]) -> Queries:
        return self.layers(features)[-1]


class QueriesModel(TransformersModel):
    """SparseSwin with the head of transformers' Mask2FormerForUniversalSegmentation.

    Its outputs are that model's class_queries_logits and masks_queries_logits. Which task it was
    trained for its checkpoint does not say: `for_instances` judges by the names of its classes.
    """

    model_type = "mask2former"
    fields = SETTINGS
    head_class = Mask2FormerHead
    head_names = NAMES
    classifier, others = "class_predictor", 1

    @abstractmethod
    def objects(self, target: Any, device: torch.device) -> tuple[Tensor, Tensor]:
        """What queries are matched to: the classes of n masks [n], and the masks [n, h, w], 0 or 1."""

    def loss(self, images_BCHW: Tensor, targets: Sequence[Any]) -> Tensor:
        """transformers' criterion: queries are matched to the masks of each image, and every decoder
        layer's classes and masks are compared with them; zero where no image has any."""
        layers = [
            Queries(found.classes.float(), found.masks.float())
            for found in self.head.layers(self.backbone(images_BCHW))
        ]
        objects = [self.objects(target, images_BCHW.device) for target in targets]
        if not any(len(classes) for classes, _ in objects):
            return 0.0 * (layers[-1].classes.sum() + layers[-1].masks.sum())
        return self._criterion(layers, *zip(*objects, strict=True))

    def _criterion(
        self, layers: list[Queries], classes: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> Tensor:
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

        config = self.head.config
        weights = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        # Made when it is needed: it needs scipy, which evaluation does not.
        criterion = Mask2FormerLoss(config, weights).to(layers[-1].classes.device)
        auxiliary = [
            {"class_queries_logits": q.classes, "masks_queries_logits": q.masks}
            for q in layers[:-1]
        ]
        losses = criterion(
            masks_queries_logits=layers[-1].masks,
            class_queries_logits=layers[-1].classes,
            mask_labels=list(masks),
            class_labels=list(classes),
            auxiliary_predictions=auxiliary,
        )
        return sum(
            weight * loss
            for kind, weight in weights.items()
            for name, loss in losses.items()
            if name.startswith(kind)
        )


class Mask2Former(QueriesModel, SemanticModel):
    """Semantic segmentation: a class's score at a pixel is the sum over the queries of its probability,
    no object left out, times the mask's, as in the paper.

    Masks are upsampled to the labels' size first, as in the original code; transformers'
    post_process_semantic_segmentation goes through 384 x 384 pixels instead, and so gives slightly
    other maps.
    """

    registered = "mask2former"

    def objects(self, target: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """The classes that occur in a label map, and where each is."""
        found = np.unique(target[target != IGNORED])
        masks = torch.from_numpy(target[None] == found[:, None, None])
        return torch.from_numpy(found).long().to(device), masks.float().to(device)

    def crop_scores(self, outputs: Queries, crop: int, size: Sequence[int]) -> Tensor:
        classes = outputs.classes[crop].float().softmax(-1)[:, :-1]
        masks = upsampled(outputs.masks[crop : crop + 1].float(), size)[0].sigmoid()
        return torch.einsum("qc,qhw->chw", classes, masks)

    @classmethod
    def head_in(cls, checkpoint: ForeignCheckpoint) -> ForeignHead | None:
        head = super().head_in(checkpoint)
        return None if head is None or for_instances(checkpoint, head) else head


def for_instances(checkpoint: ForeignCheckpoint, head: ForeignHead) -> bool:
    """Whether that is asked for, or else its classes are COCO's things, or Cityscapes' eight."""
    if checkpoint.task is not None:
        return checkpoint.task == INSTANCES
    names = {*head.description["class_names"]}
    return names in ({*COCO_NAMES}, {*CITY_NAMES[-CITY_THINGS:]})


def _pixel_decoder(config: Any, dims: Sequence[int]) -> nn.Module:
    """transformers' pixel decoder, which stays in fp32 when the model is cast to bf16 or fp16.

    It looks at places given by fractions of the image, of which bf16 can tell apart a few hundred a
    side: the original code keeps it in fp32, too. Besides, torch's grid_sample (2.13, on CPUs) reads
    beyond strided maps of 16 bits: NaN came out now and then.
    """
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

    class PixelDecoder(Mask2FormerPixelDecoder):
        def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
            return super()._apply(lambda tensor: _at_least_fp32(tensor, fn(tensor)), recurse)

    return PixelDecoder(config, feature_channels=dims)


def _at_least_fp32(before: Tensor, after: Tensor) -> Tensor:
    """A cast tensor, or the one before on its device where 16 bits are left of it."""
    if after.dtype in (torch.bfloat16, torch.float16):
        return before.to(after.device, torch.float32)
    return after
