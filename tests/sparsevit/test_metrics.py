from __future__ import annotations

import numpy as np
import pytest

from sparsevit import metrics

METRIC = {"name": "miou", "kind": "mean_iou", "classes": [1, 2]}


def test_mean_iou_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2])
    predicted = np.array([0, 1, 1, 1, 2, 2])
    state = metrics.confusion(labels, predicted, 3)
    # class 1: 2 hits of 4 in the union; class 2: 1 of 2.
    assert metrics.value(state, METRIC) == pytest.approx((2 / 4 + 1 / 2) / 2)


def test_ignored_labels_do_not_count() -> None:
    state = metrics.confusion(np.array([1, 255]), np.array([1, 2]), 3)
    assert metrics.value(state, METRIC) == 1.0


def test_shards_merge_in_any_order_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, (2, 400))
    whole = metrics.confusion(labels, predicted, 3)
    shards = [metrics.confusion(labels[i::7], predicted[i::7], 3) for i in range(7)]
    assert metrics.merge(shards) == metrics.merge(shards[::-1]) == whole


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    """With equal unions per group mIoU is a mean over groups, whose standard error is known."""
    hits = np.array([3, 5, 7, 9, 6, 4])
    states = [[[0, 0], [10 - h, h]] for h in hits.tolist()]
    metric = {"kind": "mean_iou", "classes": [1]}
    low, high = metrics.interval(states, metric)
    error = np.std(hits / 10, ddof=1) / np.sqrt(len(hits))
    assert (low + high) / 2 == pytest.approx(np.mean(hits / 10))
    assert (high - low) / 2 == pytest.approx(1.96 * error)


def test_one_group_says_nothing_about_the_spread() -> None:
    assert metrics.interval([[[1, 0], [0, 1]]], {"classes": [1]}) == (0.0, 1.0)
