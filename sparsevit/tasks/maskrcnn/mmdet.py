"""mmdet's Mask R-CNN checkpoints: which of their tensors are ours, and what they say of the network."""

from __future__ import annotations

from typing import NamedTuple

from sparsevit.data.coco import CLASS_NAMES
from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.report import some
from sparsevit.tasks.foreign import ForeignCheckpoint

PARTS = ("neck.", "rpn_head.", "roi_head.")  # of an mmdet detector, beside its backbone

NAMES = {
    "head.rpn.head.conv.0.0.": "rpn_head.rpn_conv.",
    "head.rpn.head.cls_logits.": "rpn_head.rpn_cls.",
    "head.rpn.head.bbox_pred.": "rpn_head.rpn_reg.",
    "head.regions.box_head.fc6.": "roi_head.bbox_head.shared_fcs.0.",
    "head.regions.box_head.fc7.": "roi_head.bbox_head.shared_fcs.1.",
    "head.regions.box_predictor.": "roi_head.bbox_head.",
    "head.regions.mask_predictor.conv5_mask.": "roi_head.mask_head.upsample.",
    "head.regions.mask_predictor.mask_fcn_logits.": "roi_head.mask_head.conv_logits.",
}
"""Beginnings of our tensors' names to mmdet's; those of layers that are counted come on top."""


class Detector(NamedTuple):
    """names, out_stages: as of ForeignHead. settings: as of MaskRCNN."""

    class_names: list[str]
    settings: dict[str, int]
    names: dict[str, str]
    out_stages: tuple[int, ...]


def find(checkpoint: ForeignCheckpoint) -> Detector | None:
    """The detector beside an OpenMMLab backbone; None where there is none.

    CheckpointMismatch for other detectors of mmdet. A head of 80 classes is taken for COCO's, whose
    names the weights do not hold; others are called by their numbers.
    """
    places = [p for p in checkpoint.around if f"{p}rpn_head.rpn_cls.weight" in checkpoint.tensors]
    if not places or checkpoint.backbone.place.dialect.name != "openmmlab":
        return None
    around, stages = places[0], len(checkpoint.backbone.depths)
    shapes = _Shapes(checkpoint, around)
    layers = shapes.count("roi_head.mask_head.convs.{}.conv.weight")
    names = {ours: around + theirs for ours, theirs in (_counted(stages, layers) | NAMES).items()}
    classes = shapes.of("roi_head.mask_head.conv_logits.weight")[0]
    settings = {
        "channels": shapes.of("neck.fpn_convs.0.conv.weight")[0],
        "box_channels": shapes.of("roi_head.bbox_head.fc_cls.weight")[1],
        "mask_channels": shapes.of("roi_head.mask_head.upsample.weight")[0],
        "mask_layers": layers,
    }
    _check_known(checkpoint, around, tuple(names.values()))
    coco = classes == len(CLASS_NAMES)
    named = list(CLASS_NAMES) if coco else [str(index) for index in range(classes)]
    return Detector(named, settings, names, tuple(range(stages)))


class _Shapes:
    """Shapes of an mmdet detector's tensors. CheckpointMismatch where one is missing."""

    def __init__(self, checkpoint: ForeignCheckpoint, around: str) -> None:
        self.checkpoint, self.around = checkpoint, around

    def of(self, name: str) -> tuple[int, ...]:
        tensor = self.checkpoint.tensors.get(self.around + name)
        if tensor is None or tensor.ndim < 2:
            raise CheckpointMismatch(
                f"{self.checkpoint.name} is a detector of mmdet without {self.around}{name}: only "
                "Mask R-CNN with a feature pyramid is read."
            )
        return tuple(tensor.shape)

    def count(self, template: str) -> int:
        count = 0
        while self.around + template.format(count) in self.checkpoint.tensors:
            count += 1
        return count


def _counted(stages: int, layers: int) -> dict[str, str]:
    """Names of the pyramid's and the mask head's layers."""
    named = {}
    for stage in range(stages):
        named[f"head.fpn.inner_blocks.{stage}.0."] = f"neck.lateral_convs.{stage}.conv."
        named[f"head.fpn.layer_blocks.{stage}.0."] = f"neck.fpn_convs.{stage}.conv."
    for layer in range(layers):
        named[f"head.regions.mask_head.{layer}.0."] = f"roi_head.mask_head.convs.{layer}.conv."
    return named


def _check_known(checkpoint: ForeignCheckpoint, around: str, known: tuple[str, ...]) -> None:
    mine = tuple(around + part for part in PARTS)
    unknown = [k for k in checkpoint.tensors if k.startswith(mine) and not k.startswith(known)]
    if unknown:
        raise CheckpointMismatch(
            f"{checkpoint.name} is a detector of mmdet with {some(unknown)}: only Mask R-CNN with a "
            "feature pyramid is read, without norms in its heads."
        )
