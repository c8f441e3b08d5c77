"""How training samples of 3D detection are varied, as BEVDet varies them: each image, and all space.

The released code's ranges. An image's scale is relative to the input's width over the image's; of
what is scaled the bottom is kept. Whatever is done to pixels or points is done to the cameras.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparsevit.data.driving import Cameras, Frame
from sparsevit.data.preprocess import Preprocess

SCALE = (-0.06 / 0.44, 0.11 / 0.44)  # .38 to .55 where the middle is .44
DEGREES = 5.4
TURN = 0.3925  # radians, of all space
GROWTH = (0.95, 1.05)

Size = tuple[int, int]


def varied(
    images: np.ndarray,
    sample: Frame,
    preprocess: Preprocess,
    size: Size,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, Frame]:
    """Images uint8 [V, H, W, 3] at `size`, and the sample as these show it; without `rng` as in
    evaluation."""
    if rng is None:
        straight = replace(preprocess, resize=size, slide=None)
        place = straight.placement(*images.shape[1:3])
        cameras = sample.cameras.seen_as(place, size)
        return np.stack(straight.crops(images)), replace(sample, cameras=cameras)
    drawn = [_image(image, size, preprocess.interpolation, rng) for image in images]
    cameras = sample.cameras.seen_as(np.stack([place for _, place in drawn]), size)
    return np.stack([image for image, _ in drawn]), _moved(replace(sample, cameras=cameras), rng)


def _image(
    image: np.ndarray, size: Size, interpolation: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A part of the image at a random scale, mirrored or not, turned; and where its pixels went."""
    from PIL import Image

    height, width = size
    scale = width / image.shape[1] * (1 + rng.uniform(*SCALE))
    whole = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale)))
    left = int(rng.uniform(0, max(0, whole[0] - width)))
    top = whole[1] - height
    picture = Image.fromarray(image).resize(whole, Image.Resampling[interpolation.upper()])
    picture = picture.crop((left, top, left + width, top + height))
    place = np.diag([whole[0] / image.shape[1], whole[1] / image.shape[0], 1.0])
    place[:2, 2] = -left, -top
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        place = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) @ place
    degrees = rng.uniform(-DEGREES, DEGREES)
    return np.array(picture.rotate(degrees)), _turn(np.radians(degrees), width, height) @ place


def _turn(angle: float, width: int, height: int) -> np.ndarray:
    """Pixels of an image that is turned counterclockwise around its middle."""
    cos, sin = np.cos(angle), np.sin(angle)
    made = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    middle = np.array([width / 2, height / 2])
    made[:2, 2] = middle - made[:2, :2] @ middle
    return made


def _moved(sample: Frame, rng: np.random.Generator) -> Frame:
    """Cameras and boxes turned around the car, grown, mirrored along and across or not."""
    angle, growth = rng.uniform(-TURN, TURN), rng.uniform(*GROWTH)
    mirror = np.where(rng.random(2) < 0.5, -1.0, 1.0)
    way = np.eye(4)
    cos, sin = np.cos(angle), np.sin(angle)
    way[:3, :3] = growth * np.diag([*mirror, 1]) @ [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]
    cameras: Cameras = replace(sample.cameras, to_ego=way @ sample.cameras.to_ego)
    moved = sample.boxes.moved(
        way
    )  # of a mirrored box only the direction of its length means anything
    boxes = replace(moved, sizes=growth * moved.sizes, rotations=moved.rotations / growth)
    return replace(sample, cameras=cameras, boxes=boxes)
