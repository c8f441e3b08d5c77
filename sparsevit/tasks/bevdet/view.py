"""From the cameras' feature maps to one map seen from above: lift, splat (Philion and Fidler, 2020).

Each cell of a feature map says how likely each depth is, and what is seen there. Its ray is cut at
all depths; every point brings its likelihood times what is seen to the cell of the map it lies in.
Which cell that is follows from the cameras alone, and is found once for a rig.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsevit.errors import ConfigError

MOST_CELLS = 2**22
MOST_DEPTHS = 1024


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The map from above, in metres: `cells` x `cells` squares of `cell`, centered on the car; points
    further than `height` above or below it are left out. Depths are `nearest`, + `step`, ...,
    `depths` of them. The defaults are BEVDet-Tiny's: 51.2 m each way, 1 to 59 m."""

    cells: int = 128
    cell: float = 0.8
    height: float = 10.0
    nearest: float = 1.0
    step: float = 1.0
    depths: int = 59

    def __post_init__(self) -> None:
        for name, most in (("cells", int(MOST_CELLS**0.5)), ("depths", MOST_DEPTHS)):
            if type(getattr(self, name)) is not int or not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"grid.{name} is {getattr(self, name)!r}; it is 1 to {most}.")
        for name in ("cell", "height", "nearest", "step"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < 1e4:
                raise ConfigError(f"grid.{name} is {value!r}; it is a positive number of metres.")

    @property
    def reach(self) -> float:
        """How far the map goes each way."""
        return self.cells * self.cell / 2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rig:
    """V cameras as the view transform needs them.

    pixels [V, 3, 3]: from pixels of the network's input to rays of the camera, (x, y, 1) times depth.
    to_frame [V, 4, 4]: from the camera into the frame of the map. size: (height, width) of the input.
    """

    pixels: np.ndarray
    to_frame: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class Splat:
    """Where a rig's points fall, for feature maps of one size; P points are within the map.

    points, cells int64 [P]: numbers of the points among [V, D, h, w] and of the feature cells among
    [V, h, w] that they are cut from, ordered by the cell of the map. counts int64 [Y * X]: points in
    each cell.
    """

    points: Tensor
    cells: Tensor
    counts: Tensor


class ViewTransform(nn.Module):
    """forward(features [B * V, C, h, w]) -> [B, channels, Y, X]; y and x rise with those of the frame.

    `see` says where the cameras of the samples are.
    """

    def __init__(self, in_channels: int, channels: int, grid: Grid) -> None:
        super().__init__()
        self.grid, self.channels = grid, channels
        self.depthnet = nn.Conv2d(in_channels, grid.depths + channels, 1)
        self.rigs: list[Rig] = []
        self._splats: dict[tuple[int, int, torch.device], list[Splat]] = {}

    def see(self, rigs: Sequence[Rig]) -> None:
        """The cameras of each sample to come; a single rig serves every sample."""
        self.rigs, self._splats = list(rigs), {}

    def forward(self, features: Tensor) -> Tensor:
        x = self.depthnet(features)
        # Sums of many small numbers: never in half precision.
        likely = x[:, : self.grid.depths].float().softmax(1)
        seen = x[:, self.grid.depths :].float()
        views, (rows, columns) = self._views(len(x)), x.shape[-2:]
        splats = self.splats(rows, columns, x.device)
        maps = []
        for sample in range(len(x) // views):
            part = slice(sample * views, (sample + 1) * views)
            maps.append(self._splat(likely[part], seen[part], splats[sample % len(splats)]))
        return torch.stack(maps).to(features.dtype)

    def _views(self, images: int) -> int:
        if not self.rigs:
            raise ConfigError("a 3D detector needs to know its cameras: call `attend` first.")
        views = len(self.rigs[0].to_frame)
        if images % views or len(self.rigs) not in (1, images // views):
            raise ConfigError(
                f"{images} images are not of {len(self.rigs)} samples with {views} cameras each."
            )
        return views

    def _splat(self, likely_VDhw: Tensor, seen_VChw: Tensor, splat: Splat) -> Tensor:
        """[C, Y, X]"""
        weights = likely_VDhw.reshape(-1)[splat.points]
        seen = seen_VChw.permute(0, 2, 3, 1).reshape(-1, self.channels)[splat.cells]
        # In one fixed order, on any device: the same metric is found again, bit for bit.
        summed = torch.segment_reduce(
            weights[:, None] * seen, "sum", lengths=splat.counts, axis=0, initial=0, unsafe=True
        )
        return summed.T.reshape(self.channels, self.grid.cells, self.grid.cells)

    def splats(self, rows: int, columns: int, device: torch.device) -> list[Splat]:
        """Of every rig, for feature maps of rows x columns."""
        key = (rows, columns, device)
        if key not in self._splats:
            self._splats[key] = [splat(self.grid, rig, rows, columns, device) for rig in self.rigs]
        return self._splats[key]


def splat(grid: Grid, rig: Rig, rows: int, columns: int, device: torch.device) -> Splat:
    """Where the points of a rig fall."""
    points = rig_points(grid, rig, rows, columns, device)
    edge = torch.tensor([grid.reach, grid.reach, grid.height], device=device)
    size = torch.tensor([grid.cell, grid.cell, 2 * grid.height], device=device)
    # As in the released code, towards zero: the first cell of an axis reaches one cell further out.
    place = ((points + edge) / size).long()
    sides = torch.tensor([grid.cells, grid.cells, 1], device=device)
    kept = ((place >= 0) & (place < sides)).all(-1).flatten().nonzero()[:, 0]
    x, y, _ = place.flatten(0, -2)[kept].unbind(-1)
    cells, order = torch.sort(y * grid.cells + x, stable=True)
    kept = kept[order]
    view, within = kept // (grid.depths * rows * columns), kept % (rows * columns)
    return Splat(
        points=kept,
        cells=view * rows * columns + within,
        counts=torch.bincount(cells, minlength=grid.cells**2),
    )


def rig_points(grid: Grid, rig: Rig, rows: int, columns: int, device: torch.device) -> Tensor:
    """Points of all rays at all depths in the map's frame, fp32 [V, D, h, w, 3].

    The rays of a feature map are evenly spread from the first to the last pixel of the input.
    """
    v = torch.linspace(0, rig.size[0] - 1, rows, device=device)
    u = torch.linspace(0, rig.size[1] - 1, columns, device=device)
    depths = grid.nearest + grid.step * torch.arange(grid.depths, device=device)
    y, x = torch.meshgrid(v, u, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1)
    rays = torch.from_numpy(rig.to_frame[:, :3, :3] @ rig.pixels).float().to(device)
    starts = torch.from_numpy(rig.to_frame[:, :3, 3]).float().to(device)
    ahead = torch.einsum("vij,hwj->vhwi", rays, pixels)
    return starts[:, None, None, None] + depths[:, None, None, None] * ahead[:, None]
