"""Mergeable metric states, in numpy alone.

A state is a plain nested list of numbers and text, so that it travels as JSON; shards merge in any
order to exactly the same number. How states become one is said by a spec, `TaskModel.metric`:
{"name": shown to users, "kind": which of KINDS, ...what that kind needs}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from itertools import accumulate, chain
from typing import Any, Protocol

import numpy as np

from sparsevit.errors import ConfigError
from sparsevit.metrics import packing
from sparsevit.metrics.accuracy import Accuracy
from sparsevit.metrics.coco_ap import CocoAP
from sparsevit.metrics.mean_iou import MeanIoU
from sparsevit.metrics.nuscenes_detection import NuScenesDetection

State = list[Any]
Packed = str | list[State]
Spec = Mapping[str, Any]

ENTRY_POINTS = "sparsevit.metrics"


class Metric(Protocol):
    """One kind of metric. Values are in [0, 1], higher is better.

    A kind may have a `left_out` of its own, where that is quicker than merging, and `counts = True`
    where its states are nested lists of whole numbers, all of one shape; see `packed` and `joined`.
    """

    def merge(self, states: Sequence[State]) -> State:
        """The state of all images together, whatever the order."""

    def value(self, state: State, spec: Spec) -> float:
        """The metric of a state; 0.0 of a state in which nothing was counted."""

    def interval(self, states: Sequence[State], spec: Spec) -> tuple[float, float]:
        """95% interval of the metric of the merged states."""

    def details(self, state: State, spec: Spec) -> dict[str, float]:
        """Other numbers that users of this metric look at, by name."""


KINDS: dict[str, Metric] = {
    "mean_iou": MeanIoU(),
    "accuracy": Accuracy(),
    "coco_ap": CocoAP(),
    "nuscenes_detection": NuScenesDetection(),
}


def merge(states: Sequence[State], spec: Spec) -> State:
    """The state of all images together."""
    return _kind(spec["kind"]).merge(states)


def value(state: State, spec: Spec) -> float:
    """The metric of a state, in [0, 1], higher is better."""
    return _kind(spec["kind"]).value(state, spec)


def interval(states: Sequence[State], spec: Spec) -> tuple[float, float]:
    """95% interval of the metric of the merged states."""
    return _kind(spec["kind"]).interval(states, spec)


def details(state: State, spec: Spec) -> dict[str, float]:
    """Other numbers of the same state, by name."""
    return _kind(spec["kind"]).details(state, spec)


def left_out(states: Sequence[State], spec: Spec) -> np.ndarray:
    """The metric without each of the states in turn: float [states], for a jackknife over them."""
    kind = _kind(spec["kind"])
    own = getattr(kind, "left_out", None)
    return _left_out(kind, states, spec) if own is None else own(states, spec)


def packed(states: Sequence[State], spec: Spec) -> Packed:
    """Several states as one JSON value, quick to write and to read; `joined` reads it."""
    array = joined([states], spec)
    return packing.packed(array) if isinstance(array, np.ndarray) else [*states]


def joined(parts: Iterable[Sequence[State] | Packed], spec: Spec) -> Sequence[State]:
    """The states of all parts, packed or not, in one sequence: an int64 array where the kind's are
    counts, which every function here takes as it takes lists, and does not convert again."""
    if not getattr(_kind(spec["kind"]), "counts", False):
        return [*chain.from_iterable(parts)]
    arrays = [_array(part) for part in parts if len(part)]
    return np.concatenate(arrays) if arrays else []


def _array(part: Sequence[State] | Packed) -> np.ndarray:
    if isinstance(part, str):
        return packing.unpacked(part)
    array = np.asarray(part)
    if array.dtype.kind not in "iu":
        raise ConfigError(
            f"a metric with counts = True has states of whole numbers, not {array.dtype}."
        )
    return array.astype(np.int64, copy=False)


def _left_out(kind: Metric, states: Sequence[State], spec: Spec) -> np.ndarray:
    # All before and all after a state, each merged on from the one beside it.
    before = accumulate(states, lambda one, other: kind.merge([one, other]))
    after = list(accumulate(reversed(states), lambda one, other: kind.merge([one, other])))
    heads, tails = [[], *([one] for one in before)], [[], *([one] for one in after)]
    pairs = zip(heads[:-1], reversed(tails[:-1]), strict=True)
    return np.array([kind.value(kind.merge([*head, *tail]), spec) for head, tail in pairs])


@cache
def _kind(name: str) -> Metric:
    """A kind of ours, or of another package's entry point `sparsevit.metrics`."""
    if name in KINDS:
        return KINDS[name]
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        return entry.load()()
    raise ConfigError(
        f"there is no kind of metric {name!r} here; it is one of {', '.join(KINDS)}, or comes with a "
        f"package that has an entry point in {ENTRY_POINTS!r}."
    )
