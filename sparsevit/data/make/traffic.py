"""What happens around a car, and what its cameras see of it: boxes on a plane, drawn exactly.

Lengths are in metres, times in seconds, frames as in sparsevit.data.driving; the ground is z = 0 of
the global frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsevit.data.driving import inverse, turns
from sparsevit.data.make.materials import Colour
from sparsevit.data.make.scene import Outline, Scene, rectangle

NEAR = 0.2  # nothing nearer than this before a camera is drawn
SPEED = 6.0  # of the car
REACH = 32.0  # how far around the car's way things stand
# category: (width, length, height), colour, (at rest, moving) attributes, speed when it moves
KINDS: dict[str, tuple[tuple[float, float, float], Colour, tuple[str, str], float]] = {
    "vehicle.car": ((1.9, 4.6, 1.7), (60, 90, 180), ("vehicle.parked", "vehicle.moving"), 7.0),
    "human.pedestrian.adult": (
        (0.7, 0.7, 1.8), (200, 60, 60), ("pedestrian.standing", "pedestrian.moving"), 1.4),
    "vehicle.truck": ((2.5, 7.0, 2.9), (190, 190, 60), ("vehicle.stopped", "vehicle.moving"), 6.0),
    "movable_object.trafficcone": ((0.4, 0.4, 0.9), (240, 120, 20), ("", ""), 0.0),
    "vehicle.bus.rigid": ((2.9, 11.0, 3.4), (60, 160, 150), ("vehicle.stopped", "vehicle.moving"), 6.0),
    "movable_object.barrier": ((2.2, 0.5, 1.0), (230, 230, 230), ("", ""), 0.0),
    "vehicle.bicycle": (
        (0.6, 1.8, 1.3), (40, 150, 60), ("cycle.without_rider", "cycle.with_rider"), 4.0),
    "vehicle.trailer": ((2.8, 10.0, 3.6), (150, 100, 60), ("vehicle.parked", "vehicle.moving"), 6.0),
    "vehicle.motorcycle": (
        (0.8, 2.1, 1.5), (150, 50, 150), ("cycle.without_rider", "cycle.with_rider"), 7.0),
    "vehicle.construction": (
        (2.7, 6.0, 3.1), (220, 170, 30), ("vehicle.parked", "vehicle.moving"), 3.0),
}  # fmt: skip
OTHERS = {"animal": ((0.4, 0.9, 0.7), (120, 80, 50)),
          "static_object.bicycle_rack": ((3.0, 5.0, 1.4), (90, 90, 95))}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One box that moves straight ahead or not at all. start [3]: its center at time 0."""

    category: str
    attribute: str
    colour: Colour
    size: np.ndarray
    start: np.ndarray
    yaw: float
    speed: float

    def center(self, time: float) -> np.ndarray:
        ahead = np.array([np.cos(self.yaw), np.sin(self.yaw), 0])
        return self.start + self.speed * time * ahead

    def corners(self, time: float) -> np.ndarray:
        """[8, 3]; bit 0 of the index is the side along x, bit 1 along y, bit 2 along z."""
        signs = np.array([[(i >> axis & 1) - 0.5 for axis in range(3)] for i in range(8)])
        turn = turns(np.array([self.yaw]))[0]
        return self.center(time) + (signs * self.size[[1, 0, 2]]) @ turn.T


@dataclass(frozen=True)
class Drive:
    """The car's way: straight on, a little tilted. origin [3], heading in radians."""

    origin: np.ndarray
    heading: float
    tilt: np.ndarray  # roll and pitch

    def pose(self, time: float) -> np.ndarray:
        """Ego to global, [4, 4]."""
        made = np.eye(4)
        roll, pitch = self.tilt
        lean = np.array(
            [
                [np.cos(pitch), np.sin(pitch) * np.sin(roll), np.sin(pitch) * np.cos(roll)],
                [0, np.cos(roll), -np.sin(roll)],
                [-np.sin(pitch), np.cos(pitch) * np.sin(roll), np.cos(pitch) * np.cos(roll)],
            ]
        )
        made[:3, :3] = turns(np.array([self.heading]))[0] @ lean
        ahead = np.array([np.cos(self.heading), np.sin(self.heading), 0])
        made[:3, 3] = self.origin + SPEED * time * ahead
        return made


def things(drive: Drive, seconds: float, count: int, rng: np.random.Generator) -> list[Thing]:
    """`count` things of the classes in turn along the car's way, and some that are no class."""
    found, names = [], [*KINDS]
    for index in range(count):
        name = names[(index + int(rng.integers(len(names)))) % len(names) if index >= 10 else index]
        size, colour, attributes, fastest = KINDS[name]
        moves = fastest > 0 and rng.random() < 0.5
        found.append(
            Thing(
                name,
                attributes[int(moves)],
                tuple(int(c) for c in np.clip(np.array(colour) * rng.uniform(0.8, 1.2), 0, 255)),
                np.array(size) * rng.uniform(0.9, 1.1, 3),
                _place(drive, seconds, size, rng),
                drive.heading + (rng.integers(4) * np.pi / 2 + rng.normal(0, 0.1)),
                fastest * rng.uniform(0.6, 1.0) if moves else 0.0,
            )
        )
    for name, (size, colour) in OTHERS.items():
        place = _place(drive, seconds, size, rng)
        found.append(Thing(name, "", colour, np.array(size), place, drive.heading, 0.0))
    rack = found[-1]
    size, colour, attributes, _ = KINDS["vehicle.bicycle"]
    inside = rack.start + np.array([0, 0, (size[2] - rack.size[2]) / 2])
    found.append(
        Thing("vehicle.bicycle", attributes[0], colour, np.array(size), inside, rack.yaw, 0.0)
    )
    return found


def _place(drive: Drive, seconds: float, size: tuple, rng: np.random.Generator) -> np.ndarray:
    """On the ground, beside the way of the car."""
    aside = rng.choice([-1, 1]) * rng.uniform(3.5 + size[0] / 2, 0.6 * REACH)
    ahead = rng.uniform(-0.6 * REACH, 0.6 * REACH + SPEED * seconds)
    turn = turns(np.array([drive.heading]))[0]
    return drive.origin * [1, 1, 0] + turn @ [ahead, aside, 0] + [0, 0, size[2] / 2]


def draw(
    around: list[Thing],
    time: float,
    camera_to_global: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    split: str,
    rng: np.random.Generator,
) -> Scene:
    """What a camera sees at a time: sky, ground, and the boxes, farther ones first."""
    height, width = size
    scene = Scene(height, width, split, rng)
    scene.fill(rectangle(0, 0, width, height), 0, "gravel", (170, 195, 220))
    to_camera = inverse(camera_to_global)
    ground = [(x, y, 0) for x, y in ((-300, -300), (-300, 300), (300, 300), (300, -300))]
    center = camera_to_global[:3, 3] * [1, 1, 0]
    _fill(scene, _seen(center + np.array(ground), to_camera, intrinsics), (110, 110, 108))
    eye = camera_to_global[:3, 3]
    for thing in sorted(around, key=lambda t: -np.linalg.norm(t.center(time) - eye)):
        corners = thing.corners(time)
        for shade, face in zip((1.0, 0.55, 0.8, 0.65, 1.15), _faces(corners), strict=True):
            outward = face.mean(axis=0) - corners.mean(axis=0)
            if outward @ (eye - face.mean(axis=0)) > 0:
                colour = tuple(min(255, int(c * shade)) for c in thing.colour)
                _fill(scene, _seen(face, to_camera, intrinsics), colour)
    return scene


def _faces(corners: np.ndarray) -> list[np.ndarray]:
    """Front, back, left, right and top, each [4, 3]."""
    sides = ((1, 3, 7, 5), (0, 2, 6, 4), (2, 3, 7, 6), (0, 1, 5, 4), (4, 5, 7, 6))
    return [corners[list(side)] for side in sides]


def _seen(points: np.ndarray, to_camera: np.ndarray, intrinsics: np.ndarray) -> Outline:
    """The outline in pixels of a polygon [N, 3] of the global frame, cut off at NEAR."""
    found = points @ to_camera[:3, :3].T + to_camera[:3, 3]
    kept = []
    for a, b in zip(found, np.roll(found, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (NEAR - a[2]) / (b[2] - a[2]) * (b - a))
    pixels = [intrinsics @ (point / point[2]) for point in kept]
    return [(float(x), float(y)) for x, y, _ in pixels]


def _fill(scene: Scene, outline: Outline, colour: Colour) -> None:
    if len(outline) > 2:
        scene.fill(outline, 0, "gravel", colour)
