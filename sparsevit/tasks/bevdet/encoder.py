"""The ResNet on the map from above: three stages of two basic blocks, each halving the map."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """He et al., CVPR 2016; the shortcut of a first block is a 3 x 3 convolution without a norm."""

    def __init__(self, in_channels: int, channels: int, first: bool) -> None:
        super().__init__()
        stride = 2 if first else 1
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Conv2d(in_channels, channels, 3, stride, 1) if first else None

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + beside)


class Encoder(nn.Module):
    """forward(map [B, C, Y, X]) -> the maps of all stages, the finest, of half the size, first."""

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        stages = zip((in_channels, *channels), channels, strict=False)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(BasicBlock(before, width, True), BasicBlock(width, width, False))
                for before, width in stages
            )
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps
