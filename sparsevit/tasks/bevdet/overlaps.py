"""Intersection over union of rectangles that stand at any angle."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-9


def rotated_overlaps(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU [N] of a rectangle with N others, each (x, y, length along its angle, width, angle).

    The corners of what two rectangles share are corners of one within the other, and crossings of
    their sides; their area follows once they are ordered around their middle.
    """
    if not len(others):
        return np.zeros(0)
    a = _corners(one[None])[0] - one[:2]
    b = _corners(others) - one[:2]  # near the origin, so that nothing is lost to rounding
    moved = one - [*one[:2], 0, 0, 0]
    shifted = others - np.array([*one[:2], 0, 0, 0])
    points = [np.broadcast_to(a, b.shape), b]
    valid = [_within(points[0], shifted), _within(b, np.broadcast_to(moved, shifted.shape))]
    crossings, real = _crossings(a, b)
    points, valid = np.concatenate([*points, crossings], 1), np.concatenate([*valid, real], 1)
    shared = _area(points, valid)
    areas = others[:, 2] * others[:, 3] + one[2] * one[3]
    return shared / np.maximum(areas - shared, EPSILON)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """[N, 4, 2] in order around each box."""
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    local = signs * boxes[:, None, 2:4]
    cos, sin = np.cos(boxes[:, 4, None]), np.sin(boxes[:, 4, None])
    x = local[..., 0] * cos - local[..., 1] * sin
    y = local[..., 0] * sin + local[..., 1] * cos
    return np.stack([x, y], -1) + boxes[:, None, :2]


def _within(points_Nk2: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which of each box's k points lie in it, its edge included."""
    away = points_Nk2 - boxes[:, None, :2]
    cos, sin = np.cos(boxes[:, 4, None]), np.sin(boxes[:, 4, None])
    along = np.abs(away[..., 0] * cos + away[..., 1] * sin)
    across = np.abs(away[..., 1] * cos - away[..., 0] * sin)
    halves = boxes[:, None, 2:4] / 2 + EPSILON
    return (along <= halves[..., 0]) & (across <= halves[..., 1])


def _crossings(a_42: np.ndarray, b_N42: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where sides of `a` cross sides of each `b`: [N, 16, 2], and whether they do."""
    p, r = a_42[None, :, None], (np.roll(a_42, -1, 0) - a_42)[None, :, None]
    q, s = b_N42[:, None], (np.roll(b_N42, -1, 1) - b_N42)[:, None]
    across = r[..., 0] * s[..., 1] - r[..., 1] * s[..., 0]
    parallel = np.abs(across) < EPSILON
    safe = np.where(parallel, 1.0, across)
    gap = q - p
    along = (gap[..., 0] * s[..., 1] - gap[..., 1] * s[..., 0]) / safe
    beside = (gap[..., 0] * r[..., 1] - gap[..., 1] * r[..., 0]) / safe
    real = ~parallel & (along >= 0) & (along <= 1) & (beside >= 0) & (beside <= 1)
    points = p + along[..., None] * r
    return points.reshape(len(b_N42), 16, 2), real.reshape(len(b_N42), 16)


def _area(points_Nk2: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Area [N] of the convex polygons with the valid corners."""
    count = np.maximum(valid.sum(1), 1)[:, None]
    middle = (points_Nk2 * valid[..., None]).sum(1) / count
    away = points_Nk2 - middle[:, None]
    angle = np.where(valid, np.arctan2(away[..., 1], away[..., 0]), np.inf)
    order = np.argsort(angle, axis=1, kind="stable")
    rows = np.arange(len(points_Nk2))[:, None]
    ring = away[rows, order]
    # What is no corner repeats the first one, and so encloses nothing.
    ring = np.where(valid[rows, order][..., None], ring, ring[:, :1])
    after = np.roll(ring, -1, 1)
    twice = ring[..., 0] * after[..., 1] - ring[..., 1] * after[..., 0]
    return np.where(valid.sum(1) > 2, np.abs(twice.sum(1)) / 2, 0.0)
