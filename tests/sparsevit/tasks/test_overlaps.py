"""Overlaps of rectangles at any angle: closed forms, and counting points of a fine lattice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsevit.tasks.bevdet.overlaps import rotated_overlaps


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return float(rotated_overlaps(np.array(one, float), np.array([other], float))[0])


def test_closed_forms() -> None:
    assert overlap((0, 0, 4, 2, 0.3), (0, 0, 4, 2, 0.3)) == pytest.approx(1)
    assert overlap((0, 0, 4, 2, 0), (0, 0, 4, 2, math.pi)) == pytest.approx(1)
    assert overlap((0, 0, 4, 2, 0), (2, 0, 4, 2, 0)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 4, 2, 0), (0, 0, 2, 1, 0)) == pytest.approx(1 / 4)
    assert overlap((0, 0, 4, 2, 0), (4, 0, 4, 2, 0)) == pytest.approx(0, abs=1e-9)
    assert overlap((0, 0, 4, 2, 0), (9, 9, 4, 2, 1)) == 0
    # A square and itself turned by 45 degrees share an octagon of 2 (sqrt(2) - 1) of a side of 1.
    octagon = 2 * (math.sqrt(2) - 1)
    assert overlap((1, 1, 1, 1, 0), (1, 1, 1, 1, math.pi / 4)) == pytest.approx(
        octagon / (2 - octagon)
    )
    assert overlap((0, 0, 4, 1, 0), (0, 0, 4, 1, math.pi / 2)) == pytest.approx(1 / 7)


def test_far_from_the_origin_nothing_is_lost() -> None:
    near = overlap((0, 0, 4, 2, 0.3), (1, 0.5, 3, 2, 1.1))
    far = overlap((5e4, -3e4, 4, 2, 0.3), (5e4 + 1, -3e4 + 0.5, 3, 2, 1.1))
    assert far == pytest.approx(near, abs=1e-7)


def test_as_many_points_of_a_lattice_as_the_area_says() -> None:
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(*[np.linspace(-4, 4, 401)] * 2), -1).reshape(-1, 2)
    boxes = np.concatenate(
        [rng.uniform(-1, 1, (30, 2)), rng.uniform(0.5, 4, (30, 2)), rng.uniform(-4, 4, (30, 1))], 1
    )
    inside = np.array([within(lattice, box) for box in boxes])
    found = rotated_overlaps(boxes[0], boxes[1:])
    expected = (inside[0] & inside[1:]).sum(1) / (inside[0] | inside[1:]).sum(1)
    np.testing.assert_allclose(found, expected, atol=0.02)


def within(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    x, y, length, width, angle = box
    away = (points - [x, y]) @ np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return (np.abs(away) <= np.array([length, width]) / 2).all(1)


def test_no_others() -> None:
    assert rotated_overlaps(np.array([0, 0, 1, 1, 0.0]), np.zeros((0, 5))).shape == (0,)
