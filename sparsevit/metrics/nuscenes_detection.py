"""nuScenes' detection metrics, as its devkit computes them (configuration detection_cvpr_2019).

Detections are matched to annotations by the distance of their centers in the ground plane, within
.5, 1, 2 and 4 m; matches at 2 m give the five errors. Caesar et al., CVPR 2020, arXiv 1903.11027.

Matching never crosses samples, so a state keeps of each detection its score, the distances at which
it is right, and its errors. A state is a list with an entry [annotations, rows] for each of
CLASS_NAMES; a row is [score, bits], or [score, bits, five errors] for a match at 2 m. Bit i is set
where it is right at DISTANCES[i]; an error is None where the annotation does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsevit.data.driving import CLASS_NAMES, NO_ATTRIBUTE, Boxes
from sparsevit.metrics import jackknife

DISTANCES = (0.5, 1.0, 2.0, 4.0)
ERRORS = ("mATE", "mAVE", "mASE", "mAOE", "mAAE")
AT_ERRORS = DISTANCES.index(2.0)  # where errors are taken
RANGES = {
    "car": 50, "truck": 50, "bus": 50, "trailer": 50, "construction_vehicle": 50,
    "pedestrian": 40, "motorcycle": 40, "bicycle": 40, "traffic_cone": 30, "barrier": 30,
}  # fmt: skip
"""How far from the car, in metres, each class is evaluated."""
UNDEFINED = {"traffic_cone": ("mAVE", "mAOE", "mAAE"), "barrier": ("mAVE", "mAAE")}
PARKED = ("bicycle", "motorcycle")  # left out in a bicycle rack
RECALLS = np.linspace(0, 1, 101)
FIRST = 11  # recalls up to 10% are left out
LEAST_PRECISION = 0.1
MAP_WEIGHT = 5
MOST_BOXES = 500
"""Detections of a sample; the benchmark takes no more."""


def sample_state(
    found: Boxes,
    scores: np.ndarray,
    truth: Boxes,
    points: np.ndarray,
    racks: Boxes,
    car: np.ndarray,
) -> list[Any]:
    """The state of one sample, all boxes in the global frame.

    scores [N]: of the detections. points: in each annotation; those without any are left out.
    racks: bicycle racks. car [3]: where the car is.
    """
    counted = _counted(truth, racks, car) & (np.asarray(points) > 0)
    truth, near = truth.chosen(counted), _counted(found, racks, car)
    found, scores = found.chosen(near), np.asarray(scores, np.float64)[near]
    state = []
    for kind, name in enumerate(CLASS_NAMES):
        mine, theirs = found.classes == kind, truth.classes == kind
        rows = _rows(name, found.chosen(mine), scores[mine], truth.chosen(theirs))
        state.append([int(theirs.sum()), rows])
    return state


def _counted(boxes: Boxes, racks: Boxes, car: np.ndarray) -> np.ndarray:
    """Mask of the boxes that are within the range of their class, and in no bicycle rack."""
    ranges = np.array([RANGES[name] for name in CLASS_NAMES])[boxes.classes]
    kept = np.hypot(*(boxes.centers[:, :2] - car[:2]).T) < ranges
    may_be_parked = np.isin(boxes.classes, [CLASS_NAMES.index(name) for name in PARKED])
    for center, size, turn in zip(racks.centers, racks.sizes, racks.rotations, strict=True):
        inside = np.abs((boxes.centers - center) @ turn) <= size[[1, 0, 2]] / 2
        kept &= ~(may_be_parked & inside.all(axis=1))
    return kept


def _rows(name: str, found: Boxes, scores: np.ndarray, truth: Boxes) -> list[list[Any]]:
    """Best score first; of equal scores the later one, as the devkit sorts."""
    order = np.lexsort((np.arange(len(scores)), scores))[::-1]
    apart = np.linalg.norm(found.centers[:, None, :2] - truth.centers[None, :, :2], axis=2)
    matches = [_matched(apart, order, distance) for distance in DISTANCES]
    rows = []
    for index in order:
        bits = sum((match[index] >= 0) << place for place, match in enumerate(matches))
        row = [float(scores[index]), int(bits)]
        if (other := matches[AT_ERRORS][index]) >= 0:
            row += _errors(name, found, index, truth, other)
        rows.append(row)
    return rows


def _matched(apart: np.ndarray, order: np.ndarray, distance: float) -> np.ndarray:
    """The annotation of each detection, -1 where there is none: the nearest that no better one took."""
    apart, match = apart.copy(), np.full(len(apart), -1)
    if not apart.shape[1]:
        return match
    for index in order:
        nearest = int(apart[index].argmin())
        if apart[index, nearest] < distance:
            match[index] = nearest
            apart[:, nearest] = np.inf
    return match


def _errors(name: str, found: Boxes, index: int, truth: Boxes, other: int) -> list[float | None]:
    """In the order of ERRORS."""
    sizes = np.stack([found.sizes[index], truth.sizes[other]])
    shared, both = sizes.min(axis=0).prod(), sizes.prod(axis=1).sum()
    period = np.pi if name == "barrier" else 2 * np.pi  # a barrier has no front
    turned = (truth.yaws[other] - found.yaws[index] + period / 2) % period - period / 2
    wanted = truth.attributes[other]
    speed = np.linalg.norm(found.velocities[index, :2] - truth.velocities[other, :2])
    return [
        float(np.linalg.norm(found.centers[index, :2] - truth.centers[other, :2])),
        None if np.isnan(speed) else float(speed),
        float(1 - shared / (both - shared)),
        float(abs(turned)),
        None if wanted == NO_ATTRIBUTE else float(found.attributes[index] != wanted),
    ]


class NuScenesDetection:
    """Kind of metric: the nuScenes detection score (NDS). spec has nothing more to say."""

    def merge(self, states: Sequence[Any]) -> list[Any]:
        states = [state for state in states if state]
        if not states:
            return []
        return [
            [sum(part[0] for part in parts), [row for part in parts for row in part[1]]]
            for parts in zip(*states, strict=True)
        ]

    def value(self, state: Sequence[Any], spec: Mapping[str, Any]) -> float:
        return self._score(
            [_Class(name, *part) for name, part in zip(CLASS_NAMES, state, strict=True)]
        )

    def interval(self, states: Sequence[Any], spec: Mapping[str, Any]) -> tuple[float, float]:
        """By the delete-one jackknife over the given states."""
        value = self.value(self.merge(states), spec)
        return jackknife.interval(value, self.left_out(states, spec))

    def left_out(self, states: Sequence[Any], spec: Mapping[str, Any]) -> np.ndarray:
        """The metric without each of the states in turn. All are sorted once."""
        classes = []
        for kind, name in enumerate(CLASS_NAMES):
            parts = [state[kind] for state in states]
            owners = np.repeat(np.arange(len(parts)), [len(part[1]) for part in parts])
            rows = [row for part in parts for row in part[1]]
            classes.append(_Class(name, sum(part[0] for part in parts), rows, owners))
        counts = np.array([[part[0] for part in state] for state in states])
        return np.array(
            [
                self._score([c.without(i, counts[i][k]) for k, c in enumerate(classes)])
                for i in range(len(states))
            ]
        )

    def details(self, state: Sequence[Any], spec: Mapping[str, Any]) -> dict[str, float]:
        """mAP and the five errors (mATE in m, mAVE in m/s, mAOE in radians), and AP by class."""
        classes = [_Class(name, *part) for name, part in zip(CLASS_NAMES, state, strict=True)]
        precisions = {f"AP {c.name}": c.average_precision() for c in classes}
        mean = float(np.mean(list(precisions.values())))
        return {"mAP": mean, **_mean_errors(classes), **precisions}

    def _score(self, classes: Sequence[_Class]) -> float:
        if not any(c.annotations for c in classes):
            return 0.0
        mean = float(np.mean([c.average_precision() for c in classes]))
        kept = [max(0.0, 1 - error) for error in _mean_errors(classes).values()]
        return float((MAP_WEIGHT * mean + sum(kept)) / (MAP_WEIGHT + len(kept)))


def _mean_errors(classes: Sequence[_Class]) -> dict[str, float]:
    """Each over the classes that it is defined for."""
    errors = [c.errors() for c in classes]
    return {name: float(np.mean([e[name] for e in errors if name in e])) for name in ERRORS}


class _Class:
    """All detections of one class, the best first."""

    def __init__(
        self, name: str, annotations: int, rows: Sequence[Any], owners: np.ndarray | None = None
    ) -> None:
        """owners: the state that each row came from."""
        self.name, self.annotations = name, annotations
        self.scores = np.array([row[0] for row in rows], np.float64)
        self.bits = np.array([row[1] for row in rows], np.int64)
        self.found = np.full((len(rows), len(ERRORS)), np.nan)  # None becomes NaN
        for place, row in enumerate(rows):
            if len(row) > 2:
                self.found[place] = row[2:]
        # Of equal scores wrong ones first: a tie helps nobody, and the order of shards is no matter.
        keys = (*np.nan_to_num(self.found, nan=-1).T, self.bits, -self.scores)
        order = np.lexsort(keys)
        self._choose(order)
        self.owners = None if owners is None else owners[order]

    def _choose(self, which: np.ndarray) -> None:
        self.scores, self.bits, self.found = self.scores[which], self.bits[which], self.found[which]

    def without(self, owner: int, annotations: int) -> _Class:
        """This class without one state, which has so many of the annotations."""
        rest = object.__new__(_Class)
        rest.name, rest.annotations = self.name, self.annotations - int(annotations)
        rest.scores, rest.bits, rest.found, rest.owners = self.scores, self.bits, self.found, None
        rest._choose(self.owners != owner)
        return rest

    def average_precision(self) -> float:
        """Mean over the distances."""
        return float(np.mean([self._precision(place) for place in range(len(DISTANCES))]))

    def _precision(self, place: int) -> float:
        right = self.bits >> place & 1
        if not self.annotations or not right.any():
            return 0.0
        hits = np.cumsum(right).astype(float)
        precision = np.interp(
            RECALLS, hits / self.annotations, hits / np.arange(1, len(hits) + 1), right=0
        )
        above = np.maximum(0, precision[FIRST:] - LEAST_PRECISION)
        return float(np.mean(above)) / (1 - LEAST_PRECISION)

    def errors(self) -> dict[str, float]:
        """Those that are defined for this class; 1 where 10% recall is not reached."""
        right = (self.bits >> AT_ERRORS & 1).astype(bool)
        names = [name for name in ERRORS if name not in UNDEFINED.get(self.name, ())]
        if not self.annotations or not right.any():
            return dict.fromkeys(names, 1.0)
        hits = np.cumsum(right)
        scores = np.interp(RECALLS, hits / self.annotations, self.scores, right=0)
        reached = np.flatnonzero(scores)
        last = int(reached[-1]) if len(reached) else 0
        if last < FIRST:
            return dict.fromkeys(names, 1.0)
        matched, found = self.scores[right], self.found[right]
        return {
            name: _mean_up_to(scores, matched, found[:, ERRORS.index(name)], last) for name in names
        }


def _mean_up_to(scores: np.ndarray, matched: np.ndarray, errors: np.ndarray, last: int) -> float:
    """The mean over the recalls of the mean error so far, read off at the score of each recall."""
    known = ~np.isnan(errors)
    if not known.any():
        return 1.0
    count = np.cumsum(known)
    so_far = np.where(count > 0, np.nancumsum(errors) / np.maximum(1, count), 0)
    at_recall = np.interp(scores[::-1], matched[::-1], so_far[::-1])[::-1]
    return float(np.mean(at_recall[FIRST : last + 1]))
