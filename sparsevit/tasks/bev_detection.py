"""Monocular 3D detection by BEVDet-Tiny (Huang et al., 2021, arXiv 2112.11790): six cameras to boxes.

A sample is six images, which are a batch to the backbone: windows are dropped in each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from sparsevit.data.base import Reader
from sparsevit.data.driving import CLASS_NAMES, Frame, inverse
from sparsevit.data.nuscenes import NuScenes
from sparsevit.data.nuscenes_tables import CAMERAS
from sparsevit.data.preprocess import Preprocess
from sparsevit.errors import ConfigError
from sparsevit.metrics import State
from sparsevit.metrics.nuscenes_detection import sample_state
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.bevdet import coding
from sparsevit.tasks.bevdet.augment import varied
from sparsevit.tasks.bevdet.center import CenterHead, Outputs
from sparsevit.tasks.bevdet.checkpoint import head_of
from sparsevit.tasks.bevdet.decode import detections
from sparsevit.tasks.bevdet.encoder import Encoder
from sparsevit.tasks.bevdet.neck import FPN
from sparsevit.tasks.bevdet.targets import center_loss
from sparsevit.tasks.bevdet.view import Grid, Rig, ViewTransform
from sparsevit.tasks.foreign import ForeignCheckpoint, ForeignHead

MAX_CHANNELS = 4096
# The released code scales 1600 pixels to .48, of which it cuts 704, and gives the network BGR, each
# channel with the numbers of its counterpart: it reads RGB with Pillow and swaps as if OpenCV had.
BEVDET = Preprocess(
    resize=(256, 704), interpolation="bicubic", crop_pct=11 / 12, crop_at="bottom", channels="bgr"
)


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Channels: of the neck, of the map from above (`seen`), of the stages of its encoder, of what
    that comes to, and of the center head. The defaults are BEVDet-Tiny's."""

    neck: int = 512
    seen: int = 64
    encoder: tuple[int, ...] = (128, 256, 512)
    above: int = 256
    center: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoder", tuple(self.encoder))
        given = (self.neck, self.seen, *self.encoder, self.above, self.center)
        if len(self.encoder) != 3 or not all(
            type(n) is int and 1 <= n <= MAX_CHANNELS for n in given
        ):
            raise ConfigError(f"{self} must be three stages, all of 1 to {MAX_CHANNELS} channels.")

    def to_dict(self) -> dict[str, Any]:
        return {
            "neck": self.neck,
            "seen": self.seen,
            "encoder": list(self.encoder),
            "above": self.above,
            "center": self.center,
        }


class BEVHead(nn.Module):
    """Feature maps [B * V, C, h, w] of two stages to CenterPoint's maps of each group of classes."""

    def __init__(self, dims: Sequence[int], widths: Widths, grid: Grid) -> None:
        super().__init__()
        fine, _, coarse = widths.encoder
        self.neck = FPN(sum(dims), widths.neck)
        self.view = ViewTransform(widths.neck, widths.seen, grid)
        self.encoder = Encoder(widths.seen, widths.encoder)
        self.encoder_neck = FPN(fine + coarse, widths.above, finer=True)
        self.center = CenterHead(widths.above, widths.center)

    def forward(self, features: Sequence[Tensor]) -> Outputs:
        fine, coarse = features
        fine, _, coarse = self.encoder(self.view(self.neck(fine, coarse)))
        return self.center(self.encoder_neck(fine, coarse))


class BEVDet(TaskModel):
    """BEVDet's head on a backbone that returns two stages, the second half as large as the first.

    Targets are Frames; before a forward other than in `loss`, `attend` says where the cameras are.
    frame: how the maps write boxes, one of coding.FRAMES. grid: cells must be a multiple of 8.
    """

    task = "detection_3d"
    readers: ClassVar[Mapping[str, type[Reader]]] = {"nuscenes": NuScenes}
    views = len(CAMERAS)

    def __init__(
        self,
        backbone: SparseSwin,
        *,
        widths: Widths | None = None,
        grid: Grid | None = None,
        frame: str = "ego",
        preprocess: Preprocess | None = None,
    ) -> None:
        self.widths, self.grid, self.frame = widths or Widths(), grid or Grid(), frame
        _check(backbone, self.grid, frame)
        dims = [backbone.config.dims[stage] for stage in backbone.out_stages]
        super().__init__(backbone, BEVHead(dims, self.widths, self.grid), preprocess or BEVDET)
        self.class_names = CLASS_NAMES

    @property
    def metric(self) -> dict[str, Any]:
        return {"name": "nds", "kind": "nuscenes_detection"}

    def attend(self, images_BCHW: Tensor, targets: Sequence[Frame]) -> None:
        if self.preprocess.slide is not None:
            raise ConfigError("preprocess.slide must be null: a 3D detector sees images at once.")
        size = tuple(images_BCHW.shape[-2:])
        self._see([self._prepared(sample, size) for sample in targets])

    def _prepared(self, sample: Frame, size: tuple[int, int]) -> Frame:
        """A sample with the images that preprocessing makes of its own."""
        place = self.preprocess.placement(*sample.cameras.size)
        return replace(sample, cameras=sample.cameras.seen_as(place, size))

    def _see(self, samples: Sequence[Frame]) -> None:
        self.head.view.see([_rig(self.frame, sample) for sample in samples])

    def loss(self, images_BCHW: Tensor, targets: Sequence[Frame]) -> Tensor:
        """CenterPoint's, summed over the groups; targets are of the images as they are given."""
        self._see(targets)
        return center_loss(self(images_BCHW), self.frame, self.grid, targets)

    def augment(
        self,
        image: np.ndarray,
        target: Frame,
        size: tuple[int, int],
        rng: np.random.Generator | None,
    ) -> tuple[np.ndarray, Frame]:
        return varied(image, target, self.preprocess, size, rng)

    def states(self, outputs: Outputs, targets: Sequence[Frame]) -> list[State]:
        """Matching is in the global frame, as the benchmark's is."""
        ways = [s.ego_to_global @ inverse(coding.from_ego(self.frame, s)) for s in targets]
        found = detections(outputs, self.frame, self.grid, ways)
        return [
            sample_state(
                boxes,
                scores,
                sample.boxes.moved(sample.ego_to_global),
                sample.points,
                sample.racks.moved(sample.ego_to_global),
                sample.ego_to_global[:3, 3],
            )
            for (boxes, scores), sample in zip(found, targets, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "widths": self.widths.to_dict(),
            "grid": self.grid.to_dict(),
            "frame": self.frame,
        }

    @classmethod
    def from_description(
        cls, backbone: SparseSwin, document: dict[str, Any], preprocess: Preprocess
    ) -> BEVDet:
        return cls(
            backbone,
            widths=Widths(**document["widths"]),
            grid=Grid(**document["grid"]),
            frame=document["frame"],
            preprocess=preprocess,
        )

    @classmethod
    def head_in(cls, checkpoint: ForeignCheckpoint) -> ForeignHead | None:
        found = head_of(checkpoint)
        if found is None:
            return None
        widths, grid, names = found
        description = {
            "task": cls.task,
            "widths": Widths(**widths).to_dict(),
            "grid": Grid(**grid).to_dict(),
            "frame": "lidar",  # Swin-T was released with the first release alone
        }
        return ForeignHead(description, names, tuple(checkpoint.backbone.normed), BEVDET)


def _rig(frame: str, sample: Frame) -> Rig:
    """The cameras of a sample as it is given."""
    cameras = sample.cameras
    return Rig(
        pixels=np.linalg.inv(cameras.pixels @ cameras.intrinsics),
        to_frame=coding.from_ego(frame, sample) @ cameras.to_ego,
        size=cameras.size,
    )


def _check(backbone: SparseSwin, grid: Grid, frame: str) -> None:
    stages = backbone.out_stages
    if len(stages) != 2 or stages[1] != stages[0] + 1:
        raise ConfigError(
            "BEVDet takes the outputs of two stages in a row: SparseSwin(config, out_stages=(2, 3))."
        )
    if grid.cells % 8:
        raise ConfigError(f"grid.cells is {grid.cells}; its encoder halves the map three times.")
    if frame not in coding.FRAMES:
        raise ConfigError(f"frame is {frame!r}; it is one of {', '.join(coding.FRAMES)}.")
