"""Metric states: against their definitions, and merged in any order."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from sparsevit import metrics
from sparsevit.errors import ConfigError
from sparsevit.metrics import packing
from sparsevit.metrics.accuracy import hits
from sparsevit.metrics.mean_iou import counts

IOU = {"name": "miou", "kind": "mean_iou", "classes": [1, 2]}
TOP1 = {"name": "top1", "kind": "accuracy", "top": 1}


def test_mean_iou_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2])
    predicted = np.array([0, 1, 1, 1, 2, 2])
    state = counts(labels, predicted, 3)
    # class 1: 2 hits of 4 in the union; class 2: 1 of 2.
    assert metrics.value(state, IOU) == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert metrics.details(state, IOU) == {"pixel_accuracy": pytest.approx(4 / 6)}


def test_mean_iou_is_that_of_the_confusion_matrix() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 7, (2, 5, 30, 40), dtype=np.uint8)
    labels[labels == 6] = 255  # a class that only predictions have
    matrix = np.zeros((7, 7))
    for label, prediction in zip(labels.flat, predicted.flat, strict=True):
        if label < 7:
            matrix[label, prediction] += 1
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    expected = (np.diag(matrix) / union).mean()
    spec = {"kind": "mean_iou", "classes": list(range(7))}
    assert metrics.value(counts(labels, predicted, 7), spec) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_mean_iou_is_that_of_torchmetrics(seed: int) -> None:
    """Over images of several sizes, with ignored pixels and a class that occurs nowhere."""
    rng = np.random.default_rng(seed)
    theirs = MulticlassJaccardIndex(num_classes=9, ignore_index=255)
    states = []
    for size in ((5, 9), (30, 40), (1, 7)):
        labels = rng.integers(0, 6, size, dtype=np.uint8)
        labels[rng.random(size) < 0.2] = 255
        predicted = np.where(rng.random(size) < 0.6, labels % 8, rng.integers(0, 8, size))
        states.append(counts(labels, predicted, 9))
        theirs.update(torch.from_numpy(predicted).long(), torch.from_numpy(labels).long())
    spec = IOU | {"classes": list(range(9))}
    found = metrics.value(metrics.merge(states, spec), spec)
    assert found == pytest.approx(theirs.compute().item(), abs=1e-6)


@pytest.mark.parametrize("top", [1, 5])
def test_accuracy_is_that_of_torchmetrics(top: int) -> None:
    rng = np.random.default_rng(top)
    scores, labels = rng.normal(size=(60, 11)), rng.integers(0, 11, 60)
    theirs = MulticlassAccuracy(num_classes=11, top_k=top, average="micro")
    expected = theirs(torch.from_numpy(scores), torch.from_numpy(labels)).item()
    state = metrics.merge([hits(k, row) for k, row in zip(labels, scores, strict=True)], TOP1)
    assert metrics.value(state, TOP1 | {"top": top}) == pytest.approx(expected, abs=1e-6)


def test_many_classes_in_few_bits() -> None:
    labels, predicted = np.array([[149, 149, 3], [149, 3, 3]], np.uint8)
    right, labelled, found = counts(labels, predicted, 150)
    assert (right[149], labelled[149], found[149]) == (1, 2, 1)
    assert (right[3], labelled[3], found[3]) == (1, 1, 2)
    assert sum(right) == 2


def test_ignored_labels_do_not_count() -> None:
    state = counts(np.array([1, 255]), np.array([1, 2]), 3)
    assert metrics.value(state, IOU) == 1.0


def test_nothing_counted_is_zero() -> None:
    empty = counts(np.array([255]), np.array([1]), 3)
    assert metrics.value(empty, IOU) == 0.0
    assert metrics.details(empty, IOU) == {"pixel_accuracy": 0.0}
    assert metrics.value([0, 0, 0], TOP1) == 0.0
    assert metrics.interval([[0, 0, 0]], TOP1) == (0.0, 1.0)


def test_shards_merge_in_any_order_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, (2, 400))
    whole = counts(labels, predicted, 3)
    shards = [counts(labels[i::7], predicted[i::7], 3) for i in range(7)]
    assert metrics.merge(shards, IOU) == metrics.merge(shards[::-1], IOU) == whole


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    """With equal unions per group mIoU is a mean over groups, whose standard error is known."""
    right = np.array([3, 5, 7, 9, 6, 4])
    states = [[[0, r], [0, 10], [10 - r, r]] for r in right.tolist()]
    low, high = metrics.interval(states, {"kind": "mean_iou", "classes": [1]})
    error = np.std(right / 10, ddof=1) / np.sqrt(len(right))
    assert (low + high) / 2 == pytest.approx(np.mean(right / 10))
    assert (high - low) / 2 == pytest.approx(1.96 * error)


def test_one_group_says_nothing_about_the_spread() -> None:
    assert metrics.interval([[[1, 1], [1, 1], [1, 1]]], IOU | {"classes": [1]}) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("label", "scores", "expected"),
    [
        (2, [0, 1, 9, 3, 2, 1, 1], [1, 1, 1]),
        (4, [0, 1, 9, 3, 2, 1, 1], [0, 1, 1]),
        (0, [0, 1, 9, 3, 2, 1, 1], [0, 0, 1]),
        (0, [5, 5, 5, 5, 5, 5, 5], [1, 1, 1]),
        (4, [5, 5, 5, 5, 5, 5, 5], [0, 1, 1]),
        (5, [5, 5, 5, 5, 5, 5, 5], [0, 0, 1]),
        (4, [math.nan] * 7, [0, 0, 1]),
        (0, [9, math.nan, 1, 1, 1, 1, 1], [0, 1, 1]),
    ],
)
def test_hits_of_one_image(label: int, scores: list[float], expected: list[int]) -> None:
    assert hits(label, np.array(scores)) == expected


def test_accuracy_and_its_interval() -> None:
    state = metrics.merge([[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]], TOP1)
    assert metrics.value(state, TOP1) == 0.5
    assert metrics.value(state, TOP1 | {"top": 5}) == 0.75
    assert metrics.details(state, TOP1) == {"top1": 0.5, "top5": 0.75}
    low, high = metrics.interval([state], TOP1)
    # Wilson's interval: where |p - 1/2| is 1.96 standard errors at p.
    for end in (low, high):
        assert abs(end - 0.5) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / 4))


def test_an_unknown_kind_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match="mean_iou, accuracy"):
        metrics.value([], {"kind": "bleu"})


@pytest.mark.parametrize("spec", [IOU, TOP1], ids=lambda spec: spec["kind"])
def test_joined_states_say_what_lists_of_them_say(spec: metrics.Spec) -> None:
    rng = np.random.default_rng(0)
    shape = (3, 3) if spec["kind"] == "mean_iou" else (3,)
    states = np.cumsum(rng.integers(1, 50, (12, *shape)), axis=1).tolist()
    joined = metrics.joined([states[:5], [], metrics.joined([states[5:]], spec)], spec)
    assert isinstance(joined, np.ndarray)
    assert joined.tolist() == states
    for found, alike in ((joined, states), (joined[:7], states[:7])):
        assert metrics.merge(found, spec) == metrics.merge(alike, spec)
        assert metrics.interval(found, spec) == metrics.interval(alike, spec)
        assert (metrics.left_out(found, spec) == metrics.left_out(alike, spec)).all()
    packed = [metrics.packed(part, spec) for part in (states[:5], joined[5:])]
    assert all(isinstance(part, str) for part in packed)
    assert metrics.joined([packed[0], states[5:7], packed[1]], spec).tolist() == [
        *states[:7],
        *states[5:],
    ]
    assert len(metrics.joined([[], metrics.packed([], spec)], spec)) == 0


@pytest.mark.parametrize("most", [0, 2**31 - 1, 2**31, 2**62])
def test_counts_are_unpacked_as_they_were_packed(most: int) -> None:
    array = np.array([[[0, most], [1, -most]]])
    text = packing.packed(array)
    assert json.loads(json.dumps(text)) == text
    found = packing.unpacked(text)
    assert (found.dtype, found.shape) == (np.int64, array.shape)
    assert (found == array).all()


def test_what_claims_to_be_counts_is_whole_numbers() -> None:
    with pytest.raises(ConfigError, match="whole numbers"):
        metrics.packed([[0.5, 1.5, 2.0]], TOP1)


def test_states_that_are_no_counts_are_joined_as_they_are() -> None:
    spec = {"name": "box_ap", "kind": "coco_ap"}
    parts = [[[[[1, 2]], "a"]], [[[], ""], [[[3, 4], [5, 6]], "b"]]]
    assert metrics.joined(parts, spec) == [*parts[0], *parts[1]]
    assert metrics.packed(parts[1], spec) == parts[1]
