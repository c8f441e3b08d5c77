"""The network behind the backbone: feature pyramid, proposals, regions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from sparsevit.tasks.maskrcnn.proposals import Proposals
from sparsevit.tasks.maskrcnn.regions import Found, Regions


class MaskRCNNHead(nn.Module):
    """Feature maps [B, C, h, w], finest first, to the detections of each image.

    dims, strides: of the maps. Regions are pooled from the pyramid's maps of these strides; proposals
    are made on one coarser map, too.
    """

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        classes: int,
        *,
        channels: int,
        box_channels: int,
        mask_channels: int,
        mask_layers: int,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.fpn = FeaturePyramidNetwork(list(dims), channels, LastLevelMaxPool())
        self.rpn = Proposals(channels, (*strides, 2 * strides[-1]))
        self.regions = Regions(
            channels,
            classes,
            strides,
            box_channels=box_channels,
            mask_channels=mask_channels,
            mask_layers=mask_layers,
        )

    def forward(self, features: Sequence[Tensor]) -> list[Found]:
        maps, images = self._maps(features)
        proposals, _ = self.rpn.eval()(images, maps)
        return self.regions.eval()([*maps.values()], proposals, images.image_sizes[0])

    def losses(self, features: Sequence[Tensor], targets: list[dict[str, Tensor]]) -> list[Tensor]:
        """Of proposals (score, box) and of regions (class, box, mask); see Regions.losses."""
        maps, images = self._maps(features)
        proposals, losses = self.rpn.train()(images, maps, targets)
        return [*losses.values(), *self.regions.losses([*maps.values()], proposals, targets)]

    def _maps(self, features: Sequence[Tensor]) -> tuple[dict[str, Tensor], ImageList]:
        """The pyramid, and how large the images are: as the finest map, in whole patches."""
        maps = self.fpn({str(i): x for i, x in enumerate(features)})
        size = tuple(side * self.strides[0] for side in features[0].shape[-2:])
        return maps, ImageList(features[0], [size] * len(features[0]))
