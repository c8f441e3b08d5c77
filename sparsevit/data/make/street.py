"""What moves and stands in a street: vehicles, people, poles; the nearer lies over the farther."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparsevit.data.make.materials import Colour
from sparsevit.data.make.scene import Scene, ellipse, rectangle

PAINTS: tuple[Colour, ...] = (
    (190, 40, 40), (40, 70, 160), (235, 235, 235), (45, 45, 50), (150, 155, 160), (220, 180, 60),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = ((40, 60, 120), (160, 50, 60), (60, 120, 70), (70, 60, 60))
SKIN: tuple[Colour, ...] = ((225, 185, 160), (150, 105, 80), (95, 65, 50))
VEHICLES = {  # name: (width, height) of its box, in its own size; how likely an image has one more
    "car": (1.5, 1.0, 1.0),
    "truck": (1.7, 1.6, 0.4),
    "bus": (2.4, 1.7, 0.4),
    "train": (3.0, 1.8, 0.3),
    "motorcycle": (1.0, 0.7, 0.4),
    "bicycle": (1.0, 0.6, 0.6),
}


Draw = Callable[[Scene, "Thing", Mapping[str, int]], None]


@dataclass(frozen=True)
class Thing:
    """Where a thing stands: its foot (x, y), and how large it is there, in pixels."""

    x: float
    foot: float
    size: float
    draw: Draw


def draw_traffic(scene: Scene, horizon: float, ids: Mapping[str, int]) -> None:
    """ids: label id by name."""
    things = _people(scene, horizon) + _vehicles(scene, horizon) + _poles(scene, horizon)
    for thing in sorted(things, key=lambda thing: thing.foot):
        thing.draw(scene, thing, ids)


def _place(scene: Scene, horizon: float, side: tuple[float, float], draw: Draw) -> Thing:
    """Somewhere between the horizon and the bonnet; side: across the street, 0.5 the road's edge."""
    depth = scene.rng.uniform(0.12, 0.75)
    across = scene.rng.uniform(*side) * (0.18 + 0.92 * depth)
    foot = horizon + (0.05 + 0.85 * depth) * (scene.height - horizon)
    return Thing((0.5 + across) * scene.width, foot, 0.32 * depth * scene.height, draw)


def _people(scene: Scene, horizon: float) -> list[Thing]:
    def sides() -> tuple[float, float]:
        return (0.52, 0.9) if scene.chance(0.5) else (-0.9, -0.52)

    return [
        _place(scene, horizon, sides(), lambda s, t, ids: _draw_person(s, t, ids["person"]))
        for _ in range(scene.rng.integers(2, 7))
    ]


def _vehicles(scene: Scene, horizon: float) -> list[Thing]:
    things = []
    for name, (_, _, likely) in VEHICLES.items():
        side = (-0.6, -0.52) if name == "train" else (-0.45, 0.45)
        for _ in range(4 if name == "car" else 1):
            if scene.chance(likely):
                draw = _draw_two_wheels if name.endswith("cycle") else _draw_vehicle
                things.append(_place(scene, horizon, side, _of(draw, name)))
    return things


def _poles(scene: Scene, horizon: float) -> list[Thing]:
    heads = ("traffic light", "traffic sign", "traffic sign", "")
    return [
        _place(scene, horizon, (0.5, 0.55) if scene.chance(0.5) else (-0.55, -0.5),
               _of(_draw_pole, heads[scene.rng.integers(len(heads))]))
        for _ in range(scene.rng.integers(2, 6))
    ]  # fmt: skip


def _of(draw: Callable[..., None], name: str) -> Draw:
    return lambda scene, thing, ids: draw(scene, thing, ids, name)


def _pick(scene: Scene, colours: tuple[Colour, ...]) -> Colour:
    return scene.shade(colours[scene.rng.integers(len(colours))], 0.15)


def _draw_person(scene: Scene, thing: Thing, label: int) -> None:
    """Legs, a trunk and a head; `size` is the height."""
    x, foot, size = thing.x, thing.foot, thing.size
    number, clothes = scene.new_instance(label), _pick(scene, CLOTHES)
    for side in (-1, 1):
        leg = rectangle(x + side * 0.07 * size - 0.05 * size, foot - 0.45 * size,
                        x + side * 0.07 * size + 0.05 * size, foot)  # fmt: skip
        scene.fill(leg, label, "gravel", (50, 50, 60), number)
    trunk = ellipse(x, foot - 0.62 * size, 0.15 * size, 0.24 * size)
    scene.fill(trunk, label, "grass", clothes, number)
    head = ellipse(x, foot - 0.92 * size, 0.07 * size, 0.08 * size)
    scene.fill(head, label, "gravel", _pick(scene, SKIN), number)


def _draw_vehicle(scene: Scene, thing: Thing, ids: Mapping[str, int], name: str) -> None:
    """A body with windows and wheels: of one label, as annotators draw it."""
    wide, high, _ = VEHICLES[name]
    x, foot, half, tall = thing.x, thing.foot, 0.4 * wide * thing.size, 0.55 * high * thing.size
    label, number = ids[name], scene.new_instance(ids[name])
    paint, dark = _pick(scene, PAINTS), (30, 32, 38)
    waist = foot - 0.55 * tall
    sill, roof = foot - 0.1 * tall, foot - tall
    body = rectangle(x - half, roof, x + half, sill)
    if name == "car":
        body = [(x - half, sill), (x - half, waist), (x - 0.75 * half, roof),
                (x + 0.75 * half, roof), (x + half, waist), (x + half, sill)]  # fmt: skip
    scene.fill(body, label, "gravel", paint, number)
    pane = [(x - 0.8 * half, waist), (x - 0.66 * half, foot - 0.92 * tall),
            (x + 0.66 * half, foot - 0.92 * tall), (x + 0.8 * half, waist)]  # fmt: skip
    scene.fill(pane, label, "gravel", dark, number)
    for side in (-0.62, 0.62):
        wheel = ellipse(x + side * half, foot - 0.1 * tall, 0.16 * half, 0.12 * tall)
        scene.fill(wheel, label, "gravel", dark, number)


def _draw_two_wheels(scene: Scene, thing: Thing, ids: Mapping[str, int], name: str) -> None:
    """A motorcycle or bicycle; where somebody sits on it, that is a rider and no person."""
    wide, high, _ = VEHICLES[name]
    x, foot, half, tall = thing.x, thing.foot, 0.35 * wide * thing.size, 0.6 * high * thing.size
    label, number = ids[name], scene.new_instance(ids[name])
    for side in (-0.65, 0.65):
        wheel = ellipse(x + side * half, foot - 0.35 * tall, 0.35 * half, 0.35 * tall)
        scene.fill(wheel, label, "gravel", (35, 35, 40), number)
    frame = [(x - 0.65 * half, foot - 0.3 * tall), (x - 0.3 * half, foot - 0.8 * tall),
             (x + 0.6 * half, foot - 0.9 * tall), (x + 0.3 * half, foot - 0.25 * tall)]  # fmt: skip
    scene.fill(frame, label, "gravel", _pick(scene, PAINTS), number)
    if scene.chance(0.8):
        seat = Thing(x, foot - 0.4 * tall, 0.8 * thing.size, thing.draw)
        _draw_person(scene, seat, ids["rider"])


def _draw_pole(scene: Scene, thing: Thing, ids: Mapping[str, int], head: str) -> None:
    x, foot, size = thing.x, thing.foot, 1.5 * thing.size
    thick = max(1.0, 0.02 * size)
    scene.fill(
        rectangle(x - thick, foot - size, x + thick, foot), ids["pole"], "gravel", (115, 115, 120)
    )
    if head == "traffic light":
        box = rectangle(x - 0.06 * size, foot - size, x + 0.06 * size, foot - 0.72 * size)
        scene.fill(box, ids[head], "gravel", (35, 40, 35))
        lamp = ellipse(x, foot - 0.93 * size, 0.035 * size, 0.04 * size)
        scene.fill(lamp, ids[head], "gravel", (220, 60, 50))
    elif head:
        plate = ellipse(x, foot - 0.92 * size, 0.1 * size, 0.1 * size)
        scene.fill(plate, ids[head], "gravel", _pick(scene, PAINTS))
