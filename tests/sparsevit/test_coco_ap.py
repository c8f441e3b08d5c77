"""Average precision: pycocotools' own numbers, from states merged in any order."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparsevit import metrics
from sparsevit.data.instances import Instances
from sparsevit.data.rle import as_objects, encode
from sparsevit.metrics.coco_matching import Detections, image_state

MASK, BOX = ({"name": f"{of}_ap", "kind": "coco_ap", "of": of} for of in ("mask", "box"))
SIDE = 130  # pixels: objects of all three sizes fit
CATEGORIES = 3
NAMES = ("", "50", "75", "_small", "_medium", "_large")


def objects(rng: np.random.Generator, count: int, size: tuple[int, int]) -> dict[str, Any]:
    """Rectangles with a corner missing, of all sizes; boxes that are not quite the masks'."""
    masks, boxes = np.zeros((count, *size), np.uint8), np.zeros((count, 4))
    for mask, box in zip(masks, boxes, strict=True):
        height, width = (int(min(s, 2 + s * rng.random() ** 2)) for s in size)
        top, left = rng.integers(0, size[0] - height + 1), rng.integers(0, size[1] - width + 1)
        mask[top : top + height, left : left + width] = 1
        mask[top : top + height // 3, left : left + width // 3] = 0
        box[:] = (left, top, width, height)
    boxes[:, 2:] *= rng.uniform(0.9, 1.0, (count, 2))
    return {"masks": masks, "boxes": boxes, "classes": rng.integers(0, CATEGORIES, count)}


def jittered(rng: np.random.Generator, truth: dict[str, Any], keep: float) -> dict[str, Any]:
    """Detections near some of the objects, moved by a few pixels or none."""
    chosen = np.flatnonzero(rng.random(len(truth["classes"])) < keep)
    moves = rng.integers(-3, 4, (len(chosen), 2)) * rng.integers(0, 2, (len(chosen), 1))
    masks = [np.roll(truth["masks"][i], m, (0, 1)) for i, m in zip(chosen, moves, strict=True)]
    boxes = truth["boxes"][chosen]
    boxes[:, :2] += moves[:, ::-1]
    classes = truth["classes"][chosen]
    swapped = rng.random(len(chosen)) < 0.2
    classes = np.where(swapped, rng.integers(0, CATEGORIES, len(chosen)), classes)
    return {"masks": np.array(masks).reshape(-1, *truth["masks"].shape[1:]), "boxes": boxes,
            "classes": classes}  # fmt: skip


def joined(*parts: dict[str, Any]) -> dict[str, Any]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def case(seed: int, images: int, crowds: float, levels: int) -> list[tuple[Instances, Detections]]:
    """levels: how many different scores there are; few make ties within and between images."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(images):
        size = (SIDE, int(rng.integers(40, SIDE)))
        truth = objects(rng, int(rng.integers(0, 7)), size)
        found = joined(
            jittered(rng, truth, 0.9),
            jittered(rng, truth, 0.5),
            objects(rng, int(rng.integers(0, 3)), size),
        )
        count = len(truth["classes"])
        areas = truth["masks"].sum((1, 2)) * rng.uniform(0.8, 1.0, count)
        instances = Instances(
            image_id=1000 - 7 * number,
            size=size,
            classes=truth["classes"],
            boxes=truth["boxes"],
            areas=areas,
            crowd=rng.random(count) < crowds,
            masks=encode(truth["masks"]),
        )
        scores = np.round(rng.random(len(found["classes"])) * levels) / levels
        detections = Detections(
            scores.astype(np.float32), found["classes"], found["boxes"], encode(found["masks"])
        )
        made.append((instances, detections))
    return made


def as_text(masks: tuple[bytes, ...], size: tuple[int, int]) -> list[dict[str, Any]]:
    return [m | {"counts": m["counts"].decode()} for m in as_objects(masks, size)]


def theirs(made: list[tuple[Instances, Detections]]) -> dict[str, float]:
    """pycocotools' numbers, boxes and masks; 0 where it has none."""
    images, annotations, results = [], [], {"bbox": [], "segm": []}
    for truth, found in made:
        images.append({"id": truth.image_id, "height": truth.size[0], "width": truth.size[1]})
        masks = as_text(truth.masks, truth.size)
        for i in range(len(truth)):
            annotations.append({
                "id": len(annotations) + 1, "image_id": truth.image_id,
                "category_id": int(truth.classes[i]) * 3 + 2, "bbox": truth.boxes[i].tolist(),
                "area": float(truth.areas[i]), "iscrowd": int(truth.crowd[i]),
                "segmentation": masks[i],
            })  # fmt: skip
        masks = as_text(found.masks, truth.size)
        for i in range(len(found.scores)):
            common = {"image_id": truth.image_id, "score": float(found.scores[i]),
                      "category_id": int(found.classes[i]) * 3 + 2}  # fmt: skip
            results["bbox"].append(common | {"bbox": found.boxes[i].tolist()})
            results["segm"].append(common | {"segmentation": masks[i]})
    table = COCO()
    table.dataset = {
        "images": images, "annotations": annotations, "info": {},
        "categories": [{"id": 3 * c + 2, "name": str(c)} for c in range(CATEGORIES)],
    }  # fmt: skip
    numbers = {}
    with contextlib.redirect_stdout(io.StringIO()):
        table.createIndex()
        for name, kind in (("box", "bbox"), ("mask", "segm")):
            if not results[kind]:
                numbers |= {f"{name}_ap{end}": 0.0 for end in NAMES}
                continue
            evaluation = COCOeval(table, table.loadRes(results[kind]), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            values = np.maximum(0, evaluation.stats[:6]).tolist()
            numbers |= {f"{name}_ap{end}": v for end, v in zip(NAMES, values, strict=True)}
    return numbers


def states_of(made: list[tuple[Instances, Detections]]) -> list[metrics.State]:
    """As they come back from another process."""
    return [json.loads(json.dumps(image_state(*one))) for one in made]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 6),
    crowds=st.sampled_from([0.0, 0.3, 1.0]),
    levels=st.sampled_from([2, 16, 2**20]),
)
def test_every_number_is_that_of_pycocotools(
    seed: int, images: int, crowds: float, levels: int
) -> None:
    made = case(seed, images, crowds, levels)
    state = metrics.merge(states_of(made), MASK)
    expected = theirs(made)
    assert metrics.details(state, MASK) == pytest.approx(expected, abs=1e-12)
    assert metrics.value(state, MASK) == pytest.approx(expected["mask_ap"], abs=1e-12)
    assert metrics.value(state, BOX) == pytest.approx(expected["box_ap"], abs=1e-12)


def test_more_than_a_hundred_detections_of_a_category_do_not_count() -> None:
    rng = np.random.default_rng(0)
    truth = objects(rng, 40, (SIDE, SIDE)) | {"classes": np.zeros(40, int)}
    found = joined(*[jittered(rng, truth, 1.0) for _ in range(4)]) | {"classes": np.zeros(160, int)}
    instances = Instances(
        5, (SIDE, SIDE), truth["classes"], truth["boxes"], truth["masks"].sum((1, 2)) * 1.0,
        np.zeros(40, bool), encode(truth["masks"]),
    )  # fmt: skip
    scores = rng.random(160).astype(np.float32)
    made = [
        (instances, Detections(scores, found["classes"], found["boxes"], encode(found["masks"])))
    ]
    state = image_state(*made[0])
    assert metrics.details(state, MASK) == pytest.approx(theirs(made), abs=1e-12)


def test_shards_merge_in_any_order_to_the_whole() -> None:
    states = states_of(case(3, 24, 0.2, 8))
    whole = metrics.merge(states, MASK)
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = rng.permutation(len(states)).tolist()
        cuts = sorted(rng.integers(0, len(states) + 1, 3).tolist())
        parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        shards = [metrics.merge([states[i] for i in part], MASK) for part in parts if part]
        assert metrics.merge(shards, MASK) == whole
    assert metrics.value(whole, MASK) > 0


@pytest.mark.parametrize("spec", [MASK, BOX])
def test_leaving_out_is_merging_the_others(spec: dict[str, Any]) -> None:
    states = states_of(case(4, 12, 0.2, 16))
    groups = [metrics.merge(states[i::5], spec) for i in range(5)]
    expected = [
        metrics.value(metrics.merge(groups[:i] + groups[i + 1 :], spec), spec) for i in range(5)
    ]
    assert metrics.left_out(groups, spec) == pytest.approx(expected, abs=1e-12)


def test_an_interval_holds_the_value_and_narrows_with_images() -> None:
    def width(images: int) -> float:
        states = states_of(case(5, images, 0.1, 1000))
        low, high = metrics.interval(states, MASK)
        assert low <= metrics.value(metrics.merge(states, MASK), MASK) <= high
        return high - low

    assert width(80) < width(16)
    assert metrics.interval(states_of(case(5, 1, 0.0, 9)), MASK) == (0.0, 1.0)


def test_nothing_found_and_nothing_there() -> None:
    made = case(6, 3, 0.0, 9)
    nothing = Detections(np.zeros(0, np.float32), np.zeros(0, int), np.zeros((0, 4)), ())
    states = [image_state(truth, nothing) for truth, _ in made]
    assert metrics.value(metrics.merge(states, MASK), MASK) == 0.0
    empty = made[0][0].chosen(np.zeros(len(made[0][0]), bool))
    assert image_state(empty, nothing) == [[], ""]
    assert metrics.value([[], ""], MASK) == 0.0
    assert metrics.left_out([[[], ""], [[], ""]], MASK).tolist() == [0.0, 0.0]


def test_a_state_stays_small() -> None:
    """Of a candidate of a search many are stored: some ten bytes a detection."""
    made = case(7, 60, 0.1, 2**20)
    state = metrics.merge(states_of(made), MASK)
    detections = sum(len(found.scores) for _, found in made)
    assert len(json.dumps(state)) < 20 * detections + 1000
