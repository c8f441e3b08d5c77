"""A made nuScenes set and detections on it that are right, wrong and missing in every way."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsevit.data.driving import ATTRIBUTES, CLASS_NAMES, NO_ATTRIBUTE, Boxes, Frame
from sparsevit.data.make import nuscenes as making
from sparsevit.data.nuscenes import NuScenes
from sparsevit.metrics.nuscenes_detection import sample_state

SAMPLES = 24
FALSE = 30  # detections a sample of nothing


@dataclass(frozen=True)
class Detected:
    """A sample with what was found in it. boxes: global frame."""

    frame: Frame
    boxes: Boxes
    scores: np.ndarray

    def state(self) -> list[Any]:
        """Its metric state."""
        to_global = self.frame.ego_to_global
        return sample_state(
            self.boxes,
            self.scores,
            self.frame.boxes.moved(to_global),
            self.frame.points,
            self.frame.racks.moved(to_global),
            to_global[:3, 3],
        )


def make(root: Path) -> None:
    """The set: tables that matter, images that do not."""
    list(making.make(root, {"val": SAMPLES}, (36, 64), seed=3))


def detected(root: Path) -> list[Detected]:
    """Of every sample of the split val."""
    data = NuScenes(root, "val", CLASS_NAMES)
    return [_found(data.frame(i), np.random.default_rng([7, i])) for i in range(len(data))]


def _found(frame: Frame, rng: np.random.Generator) -> Detected:
    truth = frame.boxes
    seen = truth.chosen(rng.random(len(truth)) < 0.8)
    n = len(seen) + FALSE
    spread = np.concatenate([np.full(len(seen), 0.6), np.full(FALSE, 5.0)])
    begin = np.concatenate([np.arange(len(seen)), rng.integers(0, len(seen), FALSE)])
    near = seen.chosen(begin)
    other = rng.random(n) < 0.1
    classes = np.where(other, rng.integers(0, len(CLASS_NAMES), n), near.classes)
    attributes = np.where(rng.random(n) < 0.3, rng.integers(0, len(ATTRIBUTES), n), near.attributes)
    speeds = np.nan_to_num(near.velocities[:, :2]) + rng.normal(0, 0.7, (n, 2))
    boxes = Boxes.upright(
        near.centers + rng.normal(0, 1, (n, 3)) * spread[:, None],
        near.sizes * np.exp(rng.normal(0, 0.15, (n, 3))),
        near.yaws + rng.normal(0, 0.3, n) + np.pi * (rng.random(n) < 0.1),
        speeds,
        classes,
        attributes,
    )
    scores = 1 / (1 + np.exp(rng.normal(0.6 * spread - 2, 1)))  # no two are equal
    return Detected(frame, boxes.moved(frame.ego_to_global), scores)


def results(found: list[Detected]) -> dict[str, Any]:
    """As the benchmark takes them."""
    uses = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False,
            "use_external": False}  # fmt: skip
    return {"meta": uses, "results": {d.frame.token: _records(d) for d in found}}


def _records(found: Detected) -> list[dict[str, Any]]:
    boxes = found.boxes
    return [
        {
            "sample_token": found.frame.token,
            "translation": boxes.centers[i].tolist(),
            "size": boxes.sizes[i].tolist(),
            "rotation": making.quaternion(boxes.rotations[i]),
            "velocity": boxes.velocities[i, :2].tolist(),
            "detection_name": CLASS_NAMES[boxes.classes[i]],
            "detection_score": float(found.scores[i]),
            "attribute_name": ""
            if boxes.attributes[i] == NO_ATTRIBUTE
            else ATTRIBUTES[boxes.attributes[i]],
        }
        for i in range(len(boxes))
    ]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    make(folder)
    (folder / "results.json").write_text(json.dumps(results(detected(folder))))
