"""Mask R-CNN on a sparse Swin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsevit.data.instances import Instances
from sparsevit.data.preprocess import Preprocess
from sparsevit.data.rle import encode
from sparsevit.errors import ConfigError
from sparsevit.metrics.coco_matching import Detections
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import check_class_names
from sparsevit.tasks.foreign import ForeignCheckpoint, ForeignHead
from sparsevit.tasks.huggingface import MAX_LAYERS, MAX_WIDTH, check_settings
from sparsevit.tasks.instance import MAX_CLASSES, InstanceModel, learned
from sparsevit.tasks.maskrcnn import mmdet
from sparsevit.tasks.maskrcnn.paste import pasted

SETTINGS = {"channels": 256, "box_channels": 1024, "mask_channels": 256, "mask_layers": 4}
BOUNDS = dict.fromkeys(SETTINGS, MAX_WIDTH) | {"mask_layers": MAX_LAYERS}


class MaskRCNN(InstanceModel):
    """SparseSwin, feature pyramid, proposals and regions; class_names has no background.

    settings: channels of the pyramid, of the box head and of the mask head, and the mask head's
    layers; what is left out is SETTINGS, as in the paper.
    """

    recordable = False  # as many regions as there are proposals

    def __init__(
        self,
        backbone: SparseSwin,
        class_names: Sequence[str],
        settings: Mapping[str, int] | None = None,
        *,
        preprocess: Preprocess | None = None,
    ) -> None:
        check_class_names(class_names, MAX_CLASSES)
        settings = SETTINGS | dict(settings or {})
        check_settings(settings, BOUNDS)
        dims = [backbone.config.dims[stage] for stage in backbone.out_stages]
        strides = [backbone.config.patch_size << stage for stage in backbone.out_stages]
        if backbone.out_stages != tuple(range(len(dims))):
            raise ConfigError(
                "Mask R-CNN needs the outputs of the backbone's stages from the first."
            )
        head = _head(dims, strides, len(class_names), settings)
        super().__init__(backbone, head, preprocess or Preprocess())
        self.class_names, self.settings = tuple(class_names), settings

    def loss(self, images_BCHW: Tensor, targets: Sequence[Instances]) -> Tensor:
        """The sum of the losses of proposals and regions, all of weight 1."""
        wanted = [_tensors(learned(target), images_BCHW.device) for target in targets]
        return torch.stack(self.head.losses(self.backbone(images_BCHW), wanted)).sum()

    def detections(
        self, outputs: Any, index: int, size: tuple[int, int], given: tuple[int, int]
    ) -> Detections:
        found = outputs[index]
        scale = torch.tensor([size[1] / given[1], size[0] / given[0]] * 2)
        boxes = found.boxes.float().cpu() * scale
        boxes = torch.minimum(boxes, torch.tensor([size[1], size[0]] * 2))
        masks = encode(pasted(found.masks, boxes, size))
        corners = boxes.double().numpy()
        return Detections(
            found.scores.float().cpu().numpy(),
            found.labels.cpu().numpy(),
            np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1),
            masks,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "class_names": list(self.class_names),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_description(
        cls, backbone: SparseSwin, document: dict[str, Any], preprocess: Preprocess
    ) -> MaskRCNN:
        return cls(backbone, document["class_names"], document["settings"], preprocess=preprocess)

    @classmethod
    def head_in(cls, checkpoint: ForeignCheckpoint) -> ForeignHead | None:
        """Beside the backbone of an mmdet detector; Cascade R-CNN and others are refused."""
        found = mmdet.find(checkpoint)
        if found is None:
            return None
        description = {"task": cls.task, "class_names": found.class_names}
        return ForeignHead(
            description | {"settings": found.settings}, found.names, found.out_stages
        )


def _head(
    dims: Sequence[int], strides: Sequence[int], classes: int, settings: Mapping[str, int]
) -> Any:
    try:
        from sparsevit.tasks.maskrcnn.head import MaskRCNNHead
    except (ImportError, RuntimeError) as error:  # operators that do not load: RuntimeError
        raise ConfigError(
            "Mask R-CNN needs torchvision, of the build that fits torch: "
            f"pip install 'sparsevit[detection]' ({error})."
        ) from error
    return MaskRCNNHead(dims, strides, classes, **settings)


def _tensors(target: Instances, device: torch.device) -> dict[str, Tensor]:
    """As torchvision's training takes them."""
    return {
        "boxes": torch.from_numpy(target.corners).float().to(device),
        "labels": torch.from_numpy(target.classes + 1).to(device),
        "masks": torch.from_numpy(np.ascontiguousarray(target.bitmaps())).to(device),
    }
