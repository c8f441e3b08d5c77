"""The detection metrics against nuscenes-devkit's own evaluation, and what merging must keep."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from sparsevit import metrics
from sparsevit.data.driving import CLASS_NAMES, Boxes
from sparsevit.metrics.nuscenes_detection import ERRORS, NuScenesDetection, sample_state
from tests.sparsevit.data import detections

ORACLE = json.loads((Path(__file__).parent / "oracles" / "nuscenes_devkit.json").read_text())
SPEC = {"name": "nds", "kind": "nuscenes_detection"}
THEIRS = dict(
    zip(ERRORS, ("trans_err", "vel_err", "scale_err", "orient_err", "attr_err"), strict=True)
)
CAR = np.zeros(3)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list:
    root = tmp_path_factory.mktemp("drives")
    detections.make(root)
    return [found.state() for found in detections.detected(root)]


def test_every_number_is_the_devkits(states: list) -> None:
    total = metrics.merge(states, SPEC)
    assert len(states) == ORACLE["samples"]
    assert sum(part[0] for part in total) == ORACLE["annotations"]
    assert sum(len(part[1]) for part in total) == ORACLE["detections"]
    assert metrics.value(total, SPEC) == pytest.approx(ORACLE["nd_score"], abs=1e-6)
    shown = metrics.details(total, SPEC)
    assert shown["mAP"] == pytest.approx(ORACLE["mean_ap"], abs=1e-6)
    for name, theirs in THEIRS.items():
        assert shown[name] == pytest.approx(ORACLE["tp_errors"][theirs], abs=1e-6)
    for name, value in ORACLE["mean_dist_aps"].items():
        assert shown[f"AP {name}"] == pytest.approx(value, abs=1e-6)


def test_states_travel_as_json_and_merge_in_any_order(states: list) -> None:
    travelled = json.loads(json.dumps(states))
    whole = metrics.value(metrics.merge(travelled, SPEC), SPEC)
    for seed in range(3):
        mixed = random.Random(seed).sample(travelled, len(travelled))
        parts = [metrics.merge(mixed[i : i + 5], SPEC) for i in range(0, len(mixed), 5)]
        assert metrics.value(metrics.merge(parts, SPEC), SPEC) == whole
    assert len(json.dumps(metrics.merge(states, SPEC))) < 4000 * len(states)


def test_leaving_one_out_is_merging_the_others(states: list) -> None:
    few = states[:6]
    kind = NuScenesDetection()
    expected = [kind.value(kind.merge([*few[:i], *few[i + 1 :]]), SPEC) for i in range(len(few))]
    assert metrics.left_out(few, SPEC) == pytest.approx(expected, abs=1e-12)
    low, high = metrics.interval(states, SPEC)
    assert 0 < low < metrics.value(metrics.merge(states, SPEC), SPEC) < high < 1


def boxes(*centers: tuple[float, float], kind: str = "car") -> Boxes:
    n = len(centers)
    return Boxes.upright(
        np.array([(*c, 0.0) for c in centers]), np.ones((n, 3)), np.zeros(n), np.zeros((n, 2)),
        np.full(n, CLASS_NAMES.index(kind)), np.full(n, -1),
    )  # fmt: skip


def score(found: Boxes, scores: list[float], truth: Boxes) -> float:
    points = np.ones(len(truth), int)
    state = sample_state(found, np.array(scores), truth, points, Boxes.none(), CAR)
    return NuScenesDetection().details(state, SPEC)[f"AP {CLASS_NAMES[truth.classes[0]]}"]


def test_a_perfect_detector_reaches_one_and_a_blind_one_nothing() -> None:
    truth = boxes((3, 0), (9, 2), (-4, 7))
    assert score(truth, [0.9, 0.8, 0.7], truth) == pytest.approx(1)
    assert score(Boxes.none(), [], truth) == 0


def test_a_detection_counts_at_the_distances_it_is_within() -> None:
    """1.5 m off: right at 2 and 4 m only."""
    assert score(boxes((4.5, 0)), [0.9], boxes((3, 0))) == pytest.approx(0.5)


def test_an_annotation_is_found_once() -> None:
    """The better score takes it; the other is wrong: precision falls only after full recall."""
    row = sample_state(
        boxes((3.1, 0), (3, 0)), np.array([0.9, 0.8]), boxes((3, 0)), np.ones(1), Boxes.none(), CAR
    )[0]
    assert row[0] == 1
    assert [found[1] for found in row[1]] == [0b1111, 0]


def test_of_equal_scores_the_wrong_one_comes_first_whatever_the_order() -> None:
    right = sample_state(
        boxes((3, 0)), np.array([0.5]), boxes((3, 0)), np.ones(1), Boxes.none(), CAR
    )
    wrong = sample_state(
        boxes((30, 0)), np.array([0.5]), boxes((3, 9)), np.ones(1), Boxes.none(), CAR
    )
    kind = NuScenesDetection()
    values = {kind.value(kind.merge(order), SPEC) for order in ([right, wrong], [wrong, right])}
    assert len(values) == 1


def test_what_the_benchmark_leaves_out() -> None:
    """Beyond the class's range, without a lidar point, a bicycle in a rack."""
    far = sample_state(boxes((49, 0), (51, 0)), np.ones(2), boxes((49, 0), (51, 0)), np.ones(2),
                       Boxes.none(), CAR)  # fmt: skip
    assert far[0][0] == len(far[0][1]) == 1
    empty = sample_state(boxes((9, 0)), np.ones(1), boxes((9, 0)), np.zeros(1), Boxes.none(), CAR)
    assert empty[0][0] == 0
    rack = boxes((9, 0))
    bicycle = boxes((9.3, 0.3), (9.8, 0), kind="bicycle")
    parked = sample_state(bicycle, np.ones(2), bicycle, np.ones(2), rack, CAR)
    assert parked[CLASS_NAMES.index("bicycle")][0] == 1


def test_nothing_counted_is_nothing() -> None:
    kind = NuScenesDetection()
    state = sample_state(Boxes.none(), np.zeros(0), Boxes.none(), np.zeros(0), Boxes.none(), CAR)
    assert kind.value(state, SPEC) == 0.0
    assert kind.interval([state], SPEC) == (0.0, 1.0)
