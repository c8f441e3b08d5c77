"""CenterPoint's head (Yin et al., CVPR 2021): for each group of classes, where centers are and how
the boxes around them are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)
"""Classes that share a heat map's branch, in the order of CLASS_NAMES."""
PARTS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
"""Channels of a box: offset from its cell, height of the center, log of the sizes, sine and cosine of
the angle, velocity."""
PRIOR = -2.19  # bias of heat maps: a probability of .1 everywhere
Outputs = list[dict[str, Tensor]]


class ConvNorm(nn.Module):
    """3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class GroupHead(nn.Module):
    """The maps of one group: PARTS, and a heat map for each class as logits."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.names = (*PARTS, "heatmap")
        for name, size in (PARTS | {"heatmap": classes}).items():
            last = nn.Conv2d(channels, size, 3, padding=1)
            if name == "heatmap":
                nn.init.constant_(last.bias, PRIOR)
            self.add_module(name, nn.Sequential(ConvNorm(channels, channels), last))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: self.get_submodule(name)(x) for name in self.names}


class CenterHead(nn.Module):
    """forward(map [B, C, Y, X]) -> the maps of each group, {name: [B, channels, Y, X]}."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.shared_conv = ConvNorm(in_channels, channels)
        self.task_heads = nn.ModuleList(GroupHead(channels, len(group)) for group in GROUPS)

    def forward(self, x: Tensor) -> Outputs:
        x = self.shared_conv(x)
        return [head(x) for head in self.task_heads]
