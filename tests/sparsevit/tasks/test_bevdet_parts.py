"""BEVDet's parts: the view transform point by point, and as many parameters as the original has."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sparsevit.errors import ConfigError
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.bev_detection import BEVDet
from sparsevit.tasks.bevdet.view import Grid, Rig, ViewTransform
from tests.sparsevit.tasks import detectors


def turn_by(z: float, x: float) -> np.ndarray:
    about_z = [[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]]
    return np.array(about_z) @ np.array(about_x)


def test_the_view_transform_is_what_its_points_say_one_by_one() -> None:
    """Lift and splat in plain loops: every cell of a feature map at every depth, carried by hand
    through the camera into the cell it falls in."""
    grid = Grid(cells=8, cell=2.0, height=4.0, nearest=1.0, step=1.5, depths=6)
    torch.manual_seed(0)
    view, rows, columns, height, width = ViewTransform(5, 3, grid), 3, 4, 33, 49
    matrix = np.array([[30.0, 0, 25], [0, 28, 16], [0, 0, 1]])
    image = np.array([[0.5, 0, -3], [0, 0.6, -2], [0, 0, 1]])  # scaled, then cut
    rigs = []
    for sample in range(2):
        places = np.stack([np.eye(4)] * 2)
        for camera in range(2):
            places[camera, :3, :3] = turn_by(0.7 * camera + 0.2 * sample, -1.5)
            places[camera, :3, 3] = [0.5 * camera, -0.3, 0.4]
        rigs.append(Rig(np.stack([np.linalg.inv(image @ matrix)] * 2), places, (height, width)))
    features = torch.randn(4, 5, rows, columns)
    view.see(rigs)
    with torch.no_grad():
        found, maps = view(features), view.depthnet(features).double()

    expected = np.zeros((2, 3, 8, 8))
    for sample in range(2):
        for camera in range(2):
            cells = maps[2 * sample + camera]
            for i in range(rows):
                for j in range(columns):
                    likely = np.exp(cells[:6, i, j].numpy())
                    likely /= likely.sum()
                    u, v = j * (width - 1) / (columns - 1), i * (height - 1) / (rows - 1)
                    u, v = (u + 3) / 0.5, (v + 2) / 0.6  # before it was cut and scaled
                    for d in range(6):
                        depth = 1.0 + 1.5 * d
                        point = np.array([(u - 25) / 30 * depth, (v - 16) / 28 * depth, depth])
                        place = rigs[sample].to_frame[camera]
                        x, y, z = place[:3, :3] @ point + place[:3, 3]
                        # Towards zero, as the released code rounds.
                        cell = [
                            math.trunc((x + 8) / 2),
                            math.trunc((y + 8) / 2),
                            math.trunc((z + 4) / 8),
                        ]
                        if 0 <= cell[0] < 8 and 0 <= cell[1] < 8 and cell[2] == 0:
                            expected[sample, :, cell[1], cell[0]] += (
                                likely[d] * cells[6:, i, j].numpy()
                            )
    assert (expected != 0).any(axis=1).sum() > 20
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_single_rig_serves_every_sample_of_a_batch() -> None:
    model, rig = ViewTransform(5, 3, Grid(cells=8, depths=4)), detectors.small()
    one = Rig(np.stack([np.eye(3)] * 2), np.stack([np.eye(4)] * 2), (32, 32))
    features = torch.randn(4, 5, 2, 2)
    model.see([one])
    alone = model(features)
    model.see([one, one])
    assert torch.equal(alone, model(features))
    with pytest.raises(ConfigError, match="call `attend` first"):
        rig(torch.zeros(6, 3, *detectors.SIZE))
    model.see([Rig(np.stack([np.eye(3)] * 3), np.stack([np.eye(4)] * 3), (32, 32))])
    with pytest.raises(ConfigError, match="4 images are not of 1 samples with 3 cameras each"):
        model(features)


def test_the_parameters_are_those_of_the_released_config() -> None:
    """configs/bevdet/bevdet-sttiny.py, layer by layer: convolutions without a bias where a batch norm
    (2 a channel) follows; the shortcuts of the encoder and all last layers have one."""

    def norm(channels: int) -> int:
        return 2 * channels

    def conv(before: int, after: int, size: int = 3, bias: bool = False) -> int:
        return before * after * size**2 + bias * after

    def block(before: int, after: int, first: bool) -> int:
        shortcut = conv(before, after, bias=True) if first else 0
        return conv(before, after) + conv(after, after) + 2 * norm(after) + shortcut

    neck = conv(384 + 768, 512) + conv(512, 512) + 2 * norm(512)
    depthnet = conv(512, 59 + 64, 1, bias=True)
    encoder = sum(
        block(a, b, True) + block(b, b, False) for a, b in ((64, 128), (128, 256), (256, 512))
    )
    encoder_neck = conv(128 + 512, 512) + conv(512, 512) + 2 * norm(512)
    encoder_neck += conv(512, 256) + norm(256) + conv(256, 256, 1, bias=True)
    branch = conv(64, 64) + norm(64)
    parts = 2 + 1 + 3 + 2 + 2  # offset, height, sizes, angle, velocity
    groups = sum(
        6 * branch + conv(64, parts + classes, bias=True) for classes in (1, 2, 2, 1, 2, 2)
    )
    center = conv(256, 64) + norm(64) + groups
    # Swin-T of the original, 27,519,354, with norms of the last two stages.
    swin = 27_519_354 - norm(768) + norm(384) + norm(768)
    model = BEVDet(SparseSwin(SwinConfig(), out_stages=(2, 3)))
    assert sum(p.numel() for p in model.head.parameters()) == (
        neck + depthnet + encoder + encoder_neck + center
    )
    assert sum(p.numel() for p in model.parameters()) == 55_723_451
    assert sum(p.numel() for p in model.backbone.parameters()) == swin
