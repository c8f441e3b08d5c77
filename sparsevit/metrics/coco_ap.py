"""COCO's average precision of boxes and masks, as pycocotools computes it.

Matching never crosses images: what an image's detections matched is kept for each of them, and the
precision is taken once all are there. So states are merged in any order to the number that
pycocotools finds on all images at once. matching.py makes the state of an image.

A state is [annotations, detections]. annotations: [category, how many count in each of AREAS], of the
categories that occur. detections: a table of all detections, packed (`Table`).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsevit.errors import ConfigError
from sparsevit.metrics import jackknife

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the IoU from which a detection matches
RECALLS = np.linspace(0, 1, 101)  # at which the precision is read
AREAS = {"": (0, 1e10), "_small": (0, 32**2), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}
"""Endings of the metrics' names, and the areas in pixels of the objects they are about."""
OF = ("box", "mask")  # what is compared
MOST = 100  # detections of an image and a category that count
GROUPS = 64  # of images, of which an interval leaves out one at a time

BITS = np.uint16  # one a threshold
FLAGS = 2 * len(OF) * len(AREAS)  # for each of OF and AREAS: matched, ignored


@dataclass(frozen=True)
class Table:
    """N detections in pycocotools' order: by image, and by falling score within image and category.

    images int64 [N], categories uint16 [N], scores fp32 [N]. flags [OF, AREAS, 2, N]: for each
    threshold a bit that tells whether it matched, and one whether it is ignored.
    """

    images: np.ndarray
    categories: np.ndarray
    scores: np.ndarray
    flags: np.ndarray

    def packed(self) -> str:
        """As text that travels in JSON."""
        columns = (
            self.images.astype("<i8"),
            self.categories.astype("<u2"),
            self.scores.astype("<f4"),
            self.flags.astype("<u2"),
        )
        raw = zlib.compress(b"".join(column.tobytes() for column in columns))
        return base64.b64encode(raw).decode() if len(self.images) else ""

    @classmethod
    def unpacked(cls, text: str) -> Table:
        raw = zlib.decompress(base64.b64decode(text)) if text else b""
        count = len(raw) // (8 + 2 + 4 + 2 * FLAGS)
        ends = np.cumsum([8 * count, 2 * count, 4 * count]).tolist()
        images, categories, scores, flags = (
            np.frombuffer(raw[start:end], kind)
            for start, end, kind in zip(
                (0, *ends), (*ends, len(raw)), ("<i8", "<u2", "<f4", "<u2"), strict=True
            )
        )
        return cls(images, categories, scores, flags.reshape(len(OF), len(AREAS), 2, count))

    @classmethod
    def joined(cls, tables: Sequence[Table]) -> Table:
        """All detections together, in order."""
        images, categories, scores = (
            np.concatenate([getattr(table, name) for table in tables])
            for name in ("images", "categories", "scores")
        )
        order = np.argsort(images, kind="stable")
        flags = np.concatenate([table.flags for table in tables], axis=-1)
        return cls(images[order], categories[order], scores[order], flags[..., order])


class CocoAP:
    """spec: {"of": "mask" or "box"}: whose AP the value is. The other one is in the details.

    Of a category that no annotation is of nothing is known; it is left out of the mean.
    """

    def merge(self, states: Sequence[Any]) -> list[Any]:
        if len(states) == 1:
            return states[0]
        table = Table.joined([Table.unpacked(state[1]) for state in states])
        return [_sum([state[0] for state in states]), table.packed()]

    def value(self, state: Sequence[Any], spec: Mapping[str, Any]) -> float:
        found = _precisions(*_open(state), _of(spec), 0)
        return _mean(list(found.values()))

    def interval(self, states: Sequence[Any], spec: Mapping[str, Any]) -> tuple[float, float]:
        """By the delete-one jackknife over at most GROUPS groups of the given states."""
        count = min(GROUPS, len(states))
        groups = [self.merge(states[i::count]) for i in range(count)]
        if count < 2:
            return (0.0, 1.0)
        return jackknife.interval(self.value(self.merge(states), spec), self.left_out(groups, spec))

    def left_out(self, states: Sequence[Any], spec: Mapping[str, Any]) -> np.ndarray:
        """The metric without each of the states in turn: it changes their categories only."""
        of = _of(spec)
        totals, table = _open(self.merge(states))
        owner = _owners(states, table)
        whole = _precisions(totals, table, of, 0)
        values = []
        for number, (counts, _) in enumerate(states):
            mine = {row[0]: np.array(row[1:]) for row in counts}
            changed = {*mine, *np.unique(table.categories[owner == number]).tolist()}
            rest = {c: totals[c] - mine.get(c, 0) for c in changed if c in totals}
            kept = (owner != number) & np.isin(table.categories, [*rest])
            found = whole | _precisions(rest, _chosen(table, kept), of, 0)
            values.append(_mean([found[c] for c in found if c not in rest or rest[c][0] > 0]))
        return np.array(values)

    def details(self, state: Sequence[Any], spec: Mapping[str, Any]) -> dict[str, float]:
        """AP, AP at IoU .5 and .75, and AP of small, medium and large objects: boxes and masks."""
        opened, found = _open(state), {}
        for of, name in enumerate(OF):
            for area, ending in enumerate(AREAS):
                values = list(_precisions(*opened, of, area).values())
                found[f"{name}_ap{ending}"] = _mean(values)
                if not ending:
                    for share, place in ((50, 0), (75, 5)):
                        found[f"{name}_ap{share}"] = _mean([v[place] for v in values])
        return found


def _of(spec: Mapping[str, Any]) -> int:
    if spec["of"] not in OF:
        raise ConfigError(f"the AP of {spec['of']!r} is not known; it is of {' or '.join(OF)}.")
    return OF.index(spec["of"])


def _open(state: Sequence[Any]) -> tuple[dict[int, np.ndarray], Table]:
    """(category -> annotations in each area, detections)"""
    if not state:
        return {}, Table.unpacked("")
    return {row[0]: np.array(row[1:]) for row in state[0]}, Table.unpacked(state[1])


def _sum(tables: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
    found: dict[int, np.ndarray] = {}
    for category, *counts in (row for table in tables for row in table):
        found[category] = found.get(category, 0) + np.array(counts)
    return [[category, *found[category].tolist()] for category in sorted(found)]


def _owners(states: Sequence[Any], merged: Table) -> np.ndarray:
    """Which of the states each detection of the merged table is of."""
    tables = [Table.unpacked(state[1]) for state in states]
    images = np.concatenate([table.images for table in tables])
    owners = np.repeat(np.arange(len(tables)), [len(table.images) for table in tables])
    return owners[np.argsort(images, kind="stable")]


def _chosen(table: Table, kept: np.ndarray) -> Table:
    return Table(
        table.images[kept], table.categories[kept], table.scores[kept], table.flags[..., kept]
    )


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _precisions(
    totals: Mapping[int, np.ndarray], table: Table, of: int, area: int
) -> dict[int, np.ndarray]:
    """AP at each threshold, float64 [thresholds], of each category with an annotation that counts."""
    order = np.lexsort((-table.scores, table.categories))  # stable, as pycocotools' sort
    categories = table.categories[order]
    matched, ignored = table.flags[of, area][:, order]
    found = {}
    for category, counts in totals.items():
        if counts[area] > 0:
            mine = slice(*np.searchsorted(categories, (category, category + 1)))
            found[category] = _average(_bits(matched[mine]), _bits(ignored[mine]), counts[area])
    return found


def _bits(flags: np.ndarray) -> np.ndarray:
    """bool [thresholds, N]"""
    return (flags >> np.arange(len(THRESHOLDS), dtype=BITS)[:, None]) & 1 > 0


def _average(matched: np.ndarray, ignored: np.ndarray, annotations: int) -> np.ndarray:
    """Precision at RECALLS, the best at that recall or a higher one, on average: [thresholds]."""
    if not matched.shape[1]:
        return np.zeros(len(THRESHOLDS))
    right = np.cumsum(matched & ~ignored, axis=1, dtype=np.float64)
    wrong = np.cumsum(~matched & ~ignored, axis=1, dtype=np.float64)
    precision = right / (right + wrong + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / annotations
    reached = [np.searchsorted(row, RECALLS, side="left") for row in recall]
    found = [row[at[at < len(row)]].sum() for row, at in zip(best, reached, strict=True)]
    return np.array(found) / len(RECALLS)
