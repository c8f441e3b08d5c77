"""How boxes are written into the maps of the center head, and read back.

BEVDet was released twice, on two frames and two ways to write a box:
    lidar   first release, mmdet3d below 1.0: frame of the lidar (x right, y ahead); sizes are width,
            length, height; the angle is -yaw - pi/2
    ego     second release: frame of the car (x ahead, y left); length, width, height; the yaw
"""

from __future__ import annotations

import numpy as np

from sparsevit.data.driving import Frame, inverse

FRAMES = ("lidar", "ego")
COLUMNS = {"lidar": [0, 1, 2], "ego": [1, 0, 2]}  # of (width, length, height)


def from_ego(frame: str, sample: Frame) -> np.ndarray:
    """The transform from the car's frame into the map's."""
    return inverse(sample.lidar_to_ego) if frame == "lidar" else np.eye(4)


def angles(frame: str, yaws: np.ndarray) -> np.ndarray:
    """Yaws as they are written, and, since it is its own inverse, read back."""
    return -yaws - np.pi / 2 if frame == "lidar" else yaws


def sizes(frame: str, written: np.ndarray) -> np.ndarray:
    """(width, length, height) [N, 3] in the order they are written, and back."""
    return written[:, COLUMNS[frame]]
