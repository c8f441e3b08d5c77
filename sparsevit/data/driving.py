"""A moment of driving: what its cameras see, where they are, and the boxes around the car.

Frames are right-handed, in metres: ego has x ahead, y left, z up, at the rear axle; a camera has x
right, y down, z ahead. A transform is float64 [4, 4] and takes points of the first frame that its
name tells into the second: p_ego = camera_to_ego @ p_camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

CLASS_NAMES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle",
    "pedestrian", "traffic_cone",
)  # fmt: skip
"""The classes of nuScenes' detection task, in the order of most models' outputs."""
ATTRIBUTES = (
    "pedestrian.moving", "pedestrian.sitting_lying_down", "pedestrian.standing",
    "cycle.with_rider", "cycle.without_rider",
    "vehicle.moving", "vehicle.parked", "vehicle.stopped",
)  # fmt: skip
NO_ATTRIBUTE = -1


@dataclass(frozen=True)
class Boxes:
    """N boxes of one frame.

    centers [N, 3]. sizes [N, 3]: width, length, height. rotations [N, 3, 3]: from the box, whose
    length lies along its x axis, to the frame. velocities [N, 3] in m/s, NaN where unknown. classes
    int [N]: indices into CLASS_NAMES. attributes int [N]: indices into ATTRIBUTES, NO_ATTRIBUTE
    where there is none.
    """

    centers: np.ndarray
    sizes: np.ndarray
    rotations: np.ndarray
    velocities: np.ndarray
    classes: np.ndarray
    attributes: np.ndarray

    def __len__(self) -> int:
        return len(self.centers)

    def chosen(self, which: np.ndarray) -> Boxes:
        """Those of a mask or of indices."""
        return Boxes(*(part[which] for part in self.parts))

    def moved(self, transform: np.ndarray) -> Boxes:
        """The same boxes in the frame that a rigid transform leads to."""
        turn = transform[:3, :3]
        return replace(
            self,
            centers=self.centers @ turn.T + transform[:3, 3],
            rotations=turn @ self.rotations,
            velocities=self.velocities @ turn.T,
        )

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        return (
            self.centers,
            self.sizes,
            self.rotations,
            self.velocities,
            self.classes,
            self.attributes,
        )

    @property
    def yaws(self) -> np.ndarray:
        """Angle [N] of the length in the frame's xy plane, from its x axis, in radians."""
        return np.arctan2(self.rotations[:, 1, 0], self.rotations[:, 0, 0])

    @classmethod
    def upright(
        cls,
        centers: np.ndarray,
        sizes: np.ndarray,
        yaws: np.ndarray,
        velocities: np.ndarray,
        classes: np.ndarray,
        attributes: np.ndarray,
    ) -> Boxes:
        """Boxes that stand on the xy plane, with velocities [N, 2] in it."""
        flat = np.concatenate([velocities, np.zeros((len(centers), 1))], axis=1)
        return cls(centers, sizes, turns(yaws), flat, classes, attributes)

    @classmethod
    def none(cls) -> Boxes:
        three, whole = np.zeros((0, 3)), np.zeros(0, np.int64)
        return cls(three, three, np.zeros((0, 3, 3)), three, whole, whole)


@dataclass(frozen=True)
class Cameras:
    """N cameras of a car.

    intrinsics [N, 3, 3]: to pixels of the images as they were taken. pixels [N, 3, 3]: from those
    to pixels of the images as they are given. to_ego [N, 4, 4]: into the ego frame of the moment
    that the boxes are of, the car's own motion since each camera's moment included. size: (height,
    width) of the images as they are given.
    """

    intrinsics: np.ndarray
    pixels: np.ndarray
    to_ego: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.to_ego)

    def seen_as(self, pixels: np.ndarray, size: tuple[int, int]) -> Cameras:
        """With images of a size made of theirs: pixels [3, 3] or [N, 3, 3] from these to the new."""
        return replace(self, pixels=pixels @ self.pixels, size=size)


@dataclass(frozen=True)
class Frame:
    """A moment with its annotations, a target of 3D detection.

    token: nuScenes' name of the moment. boxes: in the ego frame. points int [N]: lidar and radar
    points in each box. racks: bicycle racks, in which bicycles are not counted.
    lidar_to_ego, ego_to_global: see the module.
    """

    token: str
    cameras: Cameras
    lidar_to_ego: np.ndarray
    ego_to_global: np.ndarray
    boxes: Boxes
    points: np.ndarray
    racks: Boxes


def rotation(quaternion: Sequence[float]) -> np.ndarray:
    """[3, 3] of a unit quaternion (w, x, y, z)."""
    w, x, y, z = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def transform(quaternion: Sequence[float], translation: Sequence[float]) -> np.ndarray:
    """[4, 4] of a pose as nuScenes writes it."""
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation(quaternion), translation
    return made


def inverse(rigid: np.ndarray) -> np.ndarray:
    """The way back of a rigid transform."""
    made = np.eye(4)
    made[:3, :3] = rigid[:3, :3].T
    made[:3, 3] = -rigid[:3, :3].T @ rigid[:3, 3]
    return made


def turns(angles: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] about z by angles [N]."""
    made = np.zeros((len(angles), 3, 3))
    made[:, 0, 0], made[:, 0, 1] = np.cos(angles), -np.sin(angles)
    made[:, 1, 0], made[:, 1, 1] = np.sin(angles), np.cos(angles)
    made[:, 2, 2] = 1
    return made
