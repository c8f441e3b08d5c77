"""The outline of a mask as polygons along the edges of its pixels: filled again it is the same mask."""

from __future__ import annotations

import numpy as np

Corner = tuple[int, int]  # x, y


def polygons(mask: np.ndarray) -> list[list[float]] | None:
    """x, y, x, y, ... of each connected part; None where a part has a hole, which no polygon has."""
    loops = [_straightened(loop) for loop in _loops(mask.astype(bool))]
    if any(_turns_back(loop) for loop in loops):
        return None
    return [[float(value) for corner in loop for value in corner] for loop in loops]


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs down the columns, of zeros first: COCO's form of a crowd."""
    column = mask.astype(np.int8).ravel(order="F")
    changes = np.flatnonzero(np.diff(column)) + 1
    runs = np.diff([0, *changes.tolist(), len(column)]).tolist()
    return [0, *runs] if column[0] else runs


def _loops(mask: np.ndarray) -> list[list[Corner]]:
    """The edges between mask and background chained to loops, the mask on their right."""
    padded = np.pad(mask, 1)
    following: dict[Corner, list[Corner]] = {}

    def edges(shift: tuple[int, int], start: Corner, end: Corner) -> None:
        rows, cols = slice(1 + shift[0], None), slice(1 + shift[1], None)
        beyond = padded[rows, cols][: mask.shape[0], : mask.shape[1]]
        for y, x in zip(*(at.tolist() for at in np.nonzero(mask & ~beyond)), strict=True):
            at = (x + start[0], y + start[1])
            following.setdefault(at, []).append((x + end[0], y + end[1]))

    edges((-1, 0), (0, 0), (1, 0))
    edges((0, 1), (1, 0), (1, 1))
    edges((1, 0), (1, 1), (0, 1))
    edges((0, -1), (0, 1), (0, 0))
    loops = []
    while following:
        first = at = next(iter(following))
        loop: list[Corner] = []
        while not loop or at != first:
            loop.append(at)
            ways = following[at]
            at = ways.pop()
            if not ways:
                del following[loop[-1]]
        loops.append(loop)
    return loops


def _straightened(loop: list[Corner]) -> list[Corner]:
    """Without the corners at which it goes straight on."""
    around = zip([loop[-1], *loop[:-1]], loop, [*loop[1:], loop[0]], strict=True)
    return [at for before, at, after in around if before[0] != after[0] and before[1] != after[1]]


def _turns_back(loop: list[Corner]) -> bool:
    """Whether it goes round a hole: its area is negative then."""
    x, y = np.array(loop).T
    return bool(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) < 0)
