"""Drives in nuScenes' layout: tables `v1.0-trainval/*.json`, six cameras, exact boxes.

The devkit loads them. Scenes are numbered as scenes of the official splits are, so that `train` and
`val` are what they are there. Lidar files hold points on the boxes alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsevit.data.driving import ATTRIBUTES, transform, turns
from sparsevit.data.make.traffic import OTHERS, Drive, Thing, draw, things
from sparsevit.data.nuscenes import CLASS_OF, VAL
from sparsevit.data.nuscenes_tables import CAMERAS, LIDAR

VERSION = "v1.0-trainval"
SIZE = (900, 1600)
SCENE_SAMPLES = 5  # real scenes have about 40
STEP = 0.5  # seconds between samples
THINGS = 14
# yaw in degrees, position, focal length in widths, milliseconds before the lidar's moment
MOUNTED = {
    "CAM_FRONT_LEFT": (55, (1.52, 0.49, 1.51), 0.79, 42),
    "CAM_FRONT": (0, (1.70, 0.02, 1.51), 0.79, 34),
    "CAM_FRONT_RIGHT": (-55, (1.55, -0.49, 1.50), 0.79, 26),
    "CAM_BACK_LEFT": (108, (1.03, 0.48, 1.56), 0.79, 5),
    "CAM_BACK": (180, (0.03, 0.00, 1.57), 0.51, 12),
    "CAM_BACK_RIGHT": (-110, (1.01, -0.48, 1.56), 0.79, 19),
}
LIDAR_AT = (0.94, 0.0, 1.84)
VISIBILITY = ("v0-40", "v40-60", "v60-80", "v80-100")

Tables = dict[str, list[dict[str, Any]]]


def make(
    out: Path, counts: Mapping[str, int], size: tuple[int, int] | None, seed: int
) -> Iterator[Path]:
    """Writes the set; yields the first image of each sample. counts: samples of each split."""
    made = _Writer(out, size or SIZE, seed)
    for number, (split, count) in enumerate(counts.items()):
        for index, first in enumerate(range(0, count, SCENE_SAMPLES)):
            rng = np.random.default_rng([seed, number, index])
            samples = min(SCENE_SAMPLES, count - first)
            yield from made.scene(_scene_name(split, index), split, samples, rng)
    made.finish()


def _scene_name(split: str, index: int) -> str:
    """The index-th scene of an official split."""
    val = [number for first, last in VAL for number in range(first, last + 1)]
    numbers = val if split == "val" else [n for n in range(1, 1111) if n not in val]
    return f"scene-{numbers[index]:04}"


class _Writer:
    """Collects records, which name each other by tokens, and writes images on the way."""

    def __init__(self, out: Path, size: tuple[int, int], seed: int) -> None:
        self.out, self.size, self.seed = out, size, seed
        names = ("sensor", "log", "scene", "sample", "sample_data", "ego_pose",
                 "calibrated_sensor", "sample_annotation", "instance", "map")  # fmt: skip
        self.tables: Tables = {name: [] for name in names}
        self.tables["visibility"] = [
            {"token": str(i), "level": level, "description": ""}
            for i, level in enumerate(VISIBILITY, 1)
        ]
        for table, values in (("category", (*CLASS_OF, *OTHERS)), ("attribute", ATTRIBUTES)):
            self.tables[table] = [
                {"token": self.token(table, name), "name": name, "description": ""}
                for name in values
            ]
        for channel in (*CAMERAS, LIDAR):
            modality = "lidar" if channel == LIDAR else "camera"
            self.add("sensor", channel, channel=channel, modality=modality)

    def token(self, *parts: Any) -> str:
        text = "/".join(map(str, (self.seed, *parts)))
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    def add(self, table: str, *key: Any, **fields: Any) -> str:
        """Adds a record; its token follows from the key."""
        token = self.token(table, *key)
        self.tables[table].append({"token": token, **fields})
        return token

    def scene(
        self, name: str, split: str, samples: int, rng: np.random.Generator
    ) -> Iterator[Path]:
        drive = Drive(
            rng.uniform(300, 1500, 3) * [1, 1, 0], rng.uniform(-3, 3), rng.normal(0, 0.008, 2)
        )
        around = things(drive, STEP * samples, THINGS, rng)
        painting = rng.spawn(1)[0]  # what is drawn has no say in what is there
        log = self.add(
            "log", name, logfile=name, vehicle="car", date_captured="2018-01-01", location="drawn"
        )
        sensors = self._mount(name, rng)
        tokens = [self.token("sample", name, i) for i in range(samples)]
        self.add(
            "scene", name, log_token=log, nbr_samples=samples, first_sample_token=tokens[0],
            last_sample_token=tokens[-1], name=name, description="drawn",
        )  # fmt: skip
        begin = 1_500_000_000_000_000 + 100_000_000 * len(self.tables["scene"])
        for index in range(samples):
            stamp = begin + round(1e6 * STEP * index)
            self.add(
                "sample", name, index, timestamp=stamp, scene_token=self.token("scene", name),
                prev=tokens[index - 1] if index else "",
                next=tokens[index + 1] if index + 1 < samples else "",
            )  # fmt: skip
            points = self._annotate(name, index, samples, around, drive, rng)
            self._lidar(name, index, samples, stamp, drive, sensors[LIDAR], points)
            images = [
                self._camera(
                    camera,
                    name,
                    index,
                    samples,
                    stamp,
                    drive,
                    sensors[camera],
                    around,
                    split,
                    painting,
                )
                for camera in CAMERAS
            ]
            yield images[0]

    def _mount(self, name: str, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
        """Records of calibrated_sensor by channel: each car's differ a little."""
        height, width = self.size
        found = {}
        for camera, (yaw, place, focal, _) in MOUNTED.items():
            f = focal * width * rng.uniform(0.99, 1.01)
            matrix = [[f, 0.0, width * rng.uniform(0.49, 0.51)],
                      [0.0, f, height * rng.uniform(0.52, 0.55)], [0.0, 0.0, 1.0]]  # fmt: skip
            turn = turns(np.array([np.radians(yaw) + rng.normal(0, 0.01)]))[0]
            looking = turn @ np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)
            found[camera] = self._sensor(name, camera, looking, place, matrix)
        ahead = turns(np.array([-np.pi / 2 + rng.normal(0, 0.005)]))[0]
        return found | {LIDAR: self._sensor(name, LIDAR, ahead, LIDAR_AT, [])}

    def _sensor(
        self, name: str, channel: str, turn: np.ndarray, place: Any, matrix: Any
    ) -> dict[str, Any]:
        self.add(
            "calibrated_sensor", name, channel, sensor_token=self.token("sensor", channel),
            translation=list(place), rotation=quaternion(turn), camera_intrinsic=matrix,
        )  # fmt: skip
        return self.tables["calibrated_sensor"][-1]

    def _data(
        self, channel: str, name: str, index: int, samples: int, stamp: int, drive: Drive,
        time: float, path: str, height: int, width: int,
    ) -> np.ndarray:  # fmt: skip
        """Adds a key frame and the car's pose at its moment; the pose."""
        ego = drive.pose(time)
        pose = self.add(
            "ego_pose", name, index, channel, timestamp=stamp, rotation=quaternion(ego[:3, :3]),
            translation=ego[:3, 3].tolist(),
        )  # fmt: skip
        token = [self.token("sample_data", name, i, channel) for i in range(samples)]
        self.add(
            "sample_data", name, index, channel, sample_token=self.token("sample", name, index),
            ego_pose_token=pose, timestamp=stamp, fileformat=path.rpartition(".")[2],
            calibrated_sensor_token=self.token("calibrated_sensor", name, channel),
            is_key_frame=True, height=height, width=width, filename=path,
            prev=token[index - 1] if index else "",
            next=token[index + 1] if index + 1 < samples else "",
        )  # fmt: skip
        return ego

    def _lidar(
        self, name: str, index: int, samples: int, stamp: int, drive: Drive, sensor: Any,
        points: np.ndarray,
    ) -> None:  # fmt: skip
        path = f"samples/{LIDAR}/{name}__{LIDAR}__{stamp}.pcd.bin"
        ego = self._data(
            LIDAR, name, index, samples, stamp, drive, STEP * index, path, height=0, width=0
        )
        here = np.linalg.inv(ego @ _pose(sensor))
        seen = points @ here[:3, :3].T + here[:3, 3]
        rows = np.concatenate([seen, np.zeros((len(seen), 2))], axis=1).astype(np.float32)
        (self.out / path).parent.mkdir(parents=True, exist_ok=True)
        (self.out / path).write_bytes(rows.tobytes())

    def _camera(
        self, camera: str, name: str, index: int, samples: int, stamp: int, drive: Drive,
        sensor: Any, around: list[Thing], split: str, rng: np.random.Generator,
    ) -> Path:  # fmt: skip
        early = MOUNTED[camera][3]
        time = STEP * index - early / 1000
        path = f"samples/{camera}/{name}__{camera}__{stamp - 1000 * early}.jpg"
        ego = self._data(
            camera, name, index, samples, stamp - 1000 * early, drive, time, path, *self.size
        )
        scene = draw(
            around, time, ego @ _pose(sensor), np.array(sensor["camera_intrinsic"]), self.size,
            split, rng,
        )  # fmt: skip
        (self.out / path).parent.mkdir(parents=True, exist_ok=True)
        scene.image.save(self.out / path, quality=90)
        return self.out / path

    def _annotate(
        self, name: str, index: int, samples: int, around: list[Thing], drive: Drive,
        rng: np.random.Generator,
    ) -> np.ndarray:  # fmt: skip
        """Adds the boxes of a sample; its lidar points [N, 3] in the global frame."""
        points = []
        for number, thing in enumerate(around):
            center = thing.center(STEP * index)
            tokens = [self.token("sample_annotation", name, i, number) for i in range(samples)]
            instance = self.token("instance", name, number)
            away = np.linalg.norm(center - drive.pose(STEP * index)[:3, 3])
            hits = int(400 * max(1.5, thing.size[1:].prod()) / max(1, away) ** 2)
            side = rng.uniform(-0.5, 0.5, (hits, 3))
            side[:, 2] = 0.49  # on its roof
            corners = thing.corners(STEP * index)
            edges = corners[[1, 2, 4]] - corners[0]
            points.append(center + side @ edges)
            self.add(
                "sample_annotation", name, index, number,
                sample_token=self.token("sample", name, index), instance_token=instance,
                visibility_token="4",
                attribute_tokens=[self.token("attribute", a) for a in (thing.attribute,) if a],
                translation=center.tolist(), size=thing.size.tolist(),
                rotation=quaternion(turns(np.array([thing.yaw]))[0]),
                prev=tokens[index - 1] if index else "",
                next=tokens[index + 1] if index + 1 < samples else "",
                num_lidar_pts=hits, num_radar_pts=0,
            )  # fmt: skip
            if index == 0:
                self.add(
                    "instance", name, number,
                    category_token=self.token("category", thing.category),
                    nbr_annotations=samples, first_annotation_token=tokens[0],
                    last_annotation_token=tokens[-1],
                )  # fmt: skip
        return np.concatenate(points)

    def finish(self) -> None:
        """Writes the tables, and a map with nothing on it: the devkit wants one."""
        from PIL import Image

        path = self.out / "maps" / "drawn.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32)).save(path)
        logs = [record["token"] for record in self.tables["log"]]
        self.add("map", 0, log_tokens=logs, category="semantic_prior", filename="maps/drawn.png")
        folder = self.out / VERSION
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))


def quaternion(turn: np.ndarray) -> list[float]:
    """(w, x, y, z) of a rotation [3, 3], by the largest of its parts (Shepperd, 1978)."""
    trace = np.trace(turn)
    squares = np.array([trace, *np.diag(turn)])
    largest = int(squares.argmax())
    skew = [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]
    if largest == 0:
        parts = [1 + trace, *skew]
    else:
        i = largest - 1
        parts = [skew[i], *(turn[i, j] + turn[j, i] for j in range(3))]
        parts[largest] = 1 + 2 * turn[i, i] - trace
    made = np.array(parts) / np.linalg.norm(parts)
    return made.tolist()


def _pose(sensor: Mapping[str, Any]) -> np.ndarray:
    return transform(sensor["rotation"], sensor["translation"])
