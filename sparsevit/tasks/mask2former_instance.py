"""Instance segmentation by transformers' Mask2Former."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparsevit.data.instances import Instances
from sparsevit.data.rle import encode
from sparsevit.metrics.coco_matching import Detections
from sparsevit.tasks.foreign import ForeignCheckpoint, ForeignHead
from sparsevit.tasks.instance import InstanceModel, learned
from sparsevit.tasks.mask2former import Queries, QueriesModel, for_instances
from sparsevit.tasks.semantic import upsampled

MOST = 100  # detections of an image


class Mask2FormerInstance(QueriesModel, InstanceModel):
    """A query and a class are a detection; the best of all pairs count, as in the paper's code.

    Its score is the class's probability times the mean of the mask's where that is above a half. The
    mask is upsampled to the image's size first; transformers' post-processing goes through 384 x 384
    pixels and takes each query once. Boxes are drawn round the masks.
    """

    registered = "mask2former_instance"

    def objects(self, target: Instances, device: torch.device) -> tuple[Tensor, Tensor]:
        """Each object, crowds left out."""
        some = learned(target)
        masks = torch.from_numpy(np.ascontiguousarray(some.bitmaps()))
        return torch.from_numpy(some.classes).to(device), masks.float().to(device)

    def detections(
        self, outputs: Queries, index: int, size: tuple[int, int], given: tuple[int, int]
    ) -> Detections:
        shares = outputs.classes[index].float().softmax(-1)[:, :-1]
        best, places = shares.flatten().topk(min(MOST, shares.numel()))
        queries, labels = places // shares.shape[1], places % shares.shape[1]
        logits = upsampled(outputs.masks[index : index + 1].float(), size)[0]
        inside = logits > 0
        sure = (logits.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
        masks = inside[queries].cpu().numpy()
        return Detections(
            (best * sure[queries]).cpu().numpy(), labels.cpu().numpy(), _boxes(masks), encode(masks)
        )

    @classmethod
    def head_in(cls, checkpoint: ForeignCheckpoint) -> ForeignHead | None:
        head = super().head_in(checkpoint)
        return head if head and for_instances(checkpoint, head) else None


def _boxes(masks: np.ndarray) -> np.ndarray:
    """Left, top, width, height of each mask bool [n, H, W], float64 [n, 4]; zeros where it is empty."""
    boxes = np.zeros((len(masks), 4))
    for box, mask in zip(boxes, masks, strict=True):
        rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if len(rows):
            box[:] = cols[0], rows[0], cols[-1] + 1 - cols[0], rows[-1] + 1 - rows[0]
    return boxes
