"""FPN-LSS: a fine and a coarse map joined at the fine one's resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Joins two maps: the coarse one upsampled, then two convolutions; `finer`: then once more to
    twice the resolution, which halves the channels.

    forward(fine [B, C1, h, w], coarse [B, C2, h', w']) -> [B, channels, h, w], or [.., 2h, 2w].
    in_channels: C1 + C2.
    """

    def __init__(self, in_channels: int, channels: int, finer: bool = False) -> None:
        super().__init__()
        width = 2 * channels if finer else channels
        self.conv = nn.Sequential(*_convolution(in_channels, width), *_convolution(width, width))
        self.up2: nn.Module | None = None
        if finer:
            self.up2 = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                *_convolution(width, channels),
                nn.Conv2d(channels, channels, 1),
            )

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        # The released code doubles the coarse map; where a side is odd that would not fit the fine one.
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True)
        x = self.conv(torch.cat([fine, coarse], 1))
        return x if self.up2 is None else self.up2(x)


def _convolution(in_channels: int, channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
