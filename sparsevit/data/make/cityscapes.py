"""Street scenes in Cityscapes' layout: photographs' material, exact label ids and instance ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from sparsevit.data.cityscapes import IMAGES, LABEL_IDS, LABELS
from sparsevit.data.make.materials import Colour
from sparsevit.data.make.scene import Scene, blob, rectangle
from sparsevit.data.make.street import draw_traffic

SIZE = (1024, 2048)
CITIES = {"train": ("altstadt", "hafen"), "val": ("neustadt",)}  # of no place on a map
ID = {name: number for number, (name, _) in LABEL_IDS.items()}
HORIZON = 0.42  # of the height
BORDER = 5 / 1024  # of the height: what rectifying leaves at the sides


def make(
    out: Path, counts: Mapping[str, int], size: tuple[int, int] | None, seed: int
) -> Iterator[Path]:
    """Writes the set; yields each image when it is there. counts: images of each split."""
    from PIL import Image

    height, width = size or SIZE
    for number, (split, count) in enumerate(counts.items()):
        for index in range(count):
            cities = CITIES[split]
            city, sequence = cities[index % len(cities)], index // len(cities)
            scene = _draw(height, width, split, np.random.default_rng([seed, number, index]))
            images, labels = out / IMAGES / split / city, out / LABELS / split / city
            for folder in (images, labels):
                folder.mkdir(parents=True, exist_ok=True)
            stem = f"{city}_{sequence:06}_000019"
            scene.labels.save(labels / f"{stem}_{LABELS}_labelIds.png")
            instances = Image.fromarray(scene.instance_numbers())
            instances.save(labels / f"{stem}_{LABELS}_instanceIds.png")
            path = images / f"{stem}_{IMAGES}.png"
            scene.image.save(path, compress_level=1)  # four times as fast, a tenth larger
            yield path


def _draw(height: int, width: int, split: str, rng: np.random.Generator) -> Scene:
    scene = Scene(height, width, split, rng)
    horizon = height * HORIZON
    _draw_backdrop(scene, horizon)
    _draw_ground(scene, horizon)
    draw_traffic(scene, horizon, ID)
    _draw_own_car(scene)
    return scene


def _draw_backdrop(scene: Scene, horizon: float) -> None:
    """Sky, a row of houses, trees, and what stands before them."""
    height, width, rng = scene.height, scene.width, scene.rng
    foot = horizon + 0.03 * height
    scene.fill(rectangle(0, 0, width, foot), ID["sky"], "gravel", scene.shade((185, 205, 225), 0.1))
    left = -0.02 * width
    while left < width:
        right = left + rng.uniform(0.06, 0.16) * width
        if scene.chance(0.8):
            _draw_house(scene, left, right, horizon - rng.uniform(0.1, 0.36) * height, foot)
        left = right
    for _ in range(rng.integers(3, 8)):
        x, radius = rng.uniform(0, width), rng.uniform(0.03, 0.09) * height
        green = scene.shade((70, 105, 55))
        trunk = rectangle(x - 0.15 * radius, horizon - radius, x + 0.15 * radius, foot)
        scene.fill(trunk, ID["vegetation"], "gravel", (90, 70, 50))
        crown = blob(x, horizon - 1.4 * radius, radius, 1.2 * radius, rng)
        scene.fill(crown, ID["vegetation"], "grass", green)
    if scene.chance(0.7):
        start, long = rng.uniform(0, 0.7) * width, rng.uniform(0.1, 0.3) * width
        wall = rectangle(start, foot - 0.06 * height, start + long, foot)
        scene.fill(wall, ID["wall"], "brick", scene.shade((150, 140, 130)))
    if scene.chance(0.7):
        _draw_fence(scene, rng.uniform(0, 0.7) * width, rng.uniform(0.1, 0.25) * width, foot)


def _draw_house(scene: Scene, left: float, right: float, top: float, foot: float) -> None:
    colour = scene.shade((165, 140, 120), 0.3)
    scene.fill(rectangle(left, top, right, foot), ID["building"], "brick", colour)
    step = (right - left) / 4
    for row in range(int((foot - top) / (1.4 * step))):
        for column in range(3):
            x, y = left + (column + 0.6) * step, top + (1.4 * row + 0.5) * step
            pane = rectangle(x, y, x + 0.6 * step, y + 0.8 * step)
            scene.fill(pane, ID["building"], "gravel", scene.shade((70, 80, 95)))


def _draw_fence(scene: Scene, start: float, long: float, foot: float) -> None:
    """Bars and two rails: what is seen between them keeps its own label."""
    top, thick = foot - 0.055 * scene.height, max(1.0, 0.003 * scene.height)
    grey = scene.shade((110, 110, 115))
    for x in np.arange(start, start + long, 6 * thick):
        scene.fill(rectangle(x, top, x + thick, foot), ID["fence"], "gravel", grey)
    for y in (top, (top + foot) / 2):
        scene.fill(rectangle(start, y, start + long, y + thick), ID["fence"], "gravel", grey)


def _draw_ground(scene: Scene, horizon: float) -> None:
    """Sidewalks with a green strip, a road into the distance, rails beside it, lane marks."""
    height, width, rng = scene.height, scene.width, scene.rng
    foot = horizon + 0.03 * height
    scene.fill(rectangle(0, foot, width, height), ID["sidewalk"], "brick", (165, 150, 150))
    for side in (-1, 1):
        if scene.chance(0.6):
            _fill_strip(scene, foot, side * 0.9, side * 0.65, "terrain", "grass", (120, 145, 85))
    _fill_strip(scene, foot, -0.5, 0.5, "road", "gravel", scene.shade((105, 105, 110), 0.1))
    if scene.chance(0.5):
        _fill_strip(scene, foot, 0.5, 0.6, "parking", "gravel", (125, 120, 125))
    if scene.chance(0.5):
        _fill_strip(scene, foot, -0.62, -0.5, "rail track", "gravel", (120, 105, 100))
    for _ in range(rng.integers(2, 5)):
        middle = rng.uniform(-0.3, 0.3)
        _fill_strip(scene, foot, middle, middle + 0.012, "road", "gravel", (225, 225, 220))


def _fill_strip(
    scene: Scene, foot: float, left: float, right: float, name: str, material: str, colour: Colour
) -> None:
    """A strip of the ground that runs into the distance. left, right: at the bottom of the picture,
    0 its middle, 0.5 its sides."""
    far = 0.18  # what is left of a width at the horizon
    xs = [(0.5 + far * left, foot), (0.5 + far * right, foot)]
    xs += [(0.5 + 1.1 * right, scene.height), (0.5 + 1.1 * left, scene.height)]
    scene.fill([(x * scene.width, y) for x, y in xs], ID[name], material, colour)


def _draw_own_car(scene: Scene) -> None:
    """The bonnet of the car that carries the camera, and the border of the rectified picture."""
    height, width = scene.height, scene.width
    bonnet = [(0.2, 1.0), (0.28, 0.93), (0.5, 0.91), (0.72, 0.93), (0.8, 1.0)]
    scene.fill([(x * width, y * height) for x, y in bonnet], ID["ego vehicle"], "gravel", (60,) * 3)
    border = max(1, round(BORDER * height))
    for left in (0, width - border):
        sides = rectangle(left, 0, left + border - 1, height)
        scene.fill(sides, ID["out of roi"], "gravel", (10, 10, 10))
