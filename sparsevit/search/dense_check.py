"""Is the dense model what its user knows it to be? Asked before anything is spent on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparsevit import metrics
from sparsevit.data.base import spread
from sparsevit.errors import ConfigError, DenseMetricMismatch

if TYPE_CHECKING:
    from sparsevit.search.steps import Session

IMAGES = 256
TOLERANCE = 0.02
"""A metric of a part of the split, on another machine, may be this far off at any rate."""


def check_dense_metric(session: Session) -> dict[str, Any] | None:
    """As `dense_metric`.

    Raises DenseMetricMismatch where it is further from what was expected than TOLERANCE and than
    twice half of its 95% interval.
    """
    found = dense_metric(session)
    if found is None:
        return None
    value, (low, high), expected = found["value"], found["interval"], found["expected"]
    if abs(value - expected) > max(TOLERANCE, high - low):
        raise DenseMetricMismatch(
            f"The dense model reaches {session.model.metric['name']} {value:.3f} (95% interval "
            f"{low:.3f} to {high:.3f}) on {found['images']} images of the {found['split']} split, but "
            f"{expected:.3f} was expected. Look at preprocess (mean and std, channel order, resize "
            "and interpolation), at the input's size, and at how labels map to the model's classes."
        )
    return found


def dense_metric(session: Session) -> dict[str, Any] | None:
    """{"value", "interval", "expected", "images", "split"} of the dense model on images spread
    evenly over the search split; None where nothing is expected of it."""
    expected, data = session.expected_dense_metric, session.splits.search
    if expected is None:
        return None
    if not 0 <= expected <= 1:
        raise ConfigError(f"expected_dense_metric is {expected!r}; it is a share from 0 to 1.")
    images = min(IMAGES, len(data))
    metric = session.model.metric
    (states,) = session.states(data, [(0,) * sum(session.pairs)], spread(len(data), images))
    return {
        "value": metrics.value(metrics.merge(states, metric), metric),
        "interval": list(metrics.interval(states, metric)),
        "expected": expected,
        "images": images,
        "split": session.splits.search_name,
    }
