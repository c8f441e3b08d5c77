"""nuScenes' tables, `v1.0-*/NAME.json`: the key frames, looked up by token and checked.

A table is a list of records that name each other by tokens. The full set has 2.6 million records
of sensor data, of which the key frames of cameras and lidar are one in sixty: what is not needed
is dropped while a table is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sparsevit.data.driving import inverse, transform
from sparsevit.errors import DatasetError
from sparsevit.opening import open_file

TABLES: dict[str, tuple[str, ...]] = {
    "scene": ("name",),
    "sample": ("scene_token", "timestamp"),
    "sensor": ("channel",),
    "calibrated_sensor": ("sensor_token", "rotation", "translation", "camera_intrinsic"),
    "sample_data": ("sample_token", "ego_pose_token", "calibrated_sensor_token", "is_key_frame",
                    "filename", "height", "width"),
    "ego_pose": ("rotation", "translation"),
    "sample_annotation": ("sample_token", "instance_token", "attribute_tokens", "translation",
                          "size", "rotation", "prev", "next", "num_lidar_pts", "num_radar_pts"),
    "instance": ("category_token",),
    "category": ("name",),
    "attribute": ("name",),
}  # fmt: skip
"""Those that are read, and their fields; visibility, log and map say nothing of boxes."""
CAMERAS = (
    "CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT",
)  # fmt: skip
LIDAR = "LIDAR_TOP"  # its key frame's moment is that of the annotations
UNIT = 1e-3  # how far from 1 the norm of a rotation may be
LONGEST_GAP = 1.5  # seconds between two annotations that tell a velocity

Record = dict[str, Any]


class Tables:
    """The tables of one version's folder.

    Raises DatasetError, naming the table and the record, for what is missing or makes no sense.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in TABLES:
            if not self.file(name).is_file():
                raise DatasetError(
                    f"{self.file(name)} is missing; nuScenes has the tables {', '.join(TABLES)}."
                )
        self._index: dict[str, dict[str, Record]] = {
            name: self._load(name) for name in ("scene", "sample", "sensor", "calibrated_sensor")
        }
        self._index["sample_data"] = self._load("sample_data", self._if_used)
        poses = {record["ego_pose_token"] for record in self.rows("sample_data")}
        self._index["ego_pose"] = self._load("ego_pose", lambda r: r["token"] in poses)
        for name in ("sample_annotation", "instance", "category", "attribute"):
            self._index[name] = self._load(name)
        self.samples = self._by("sample", "scene_token")
        self.annotations = self._by("sample_annotation", "sample_token")
        self.key_frames = {
            (record["sample_token"], self.channel(record)): record
            for record in self.rows("sample_data")
        }

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def rows(self, name: str) -> Sequence[Record]:
        return [*self._index[name].values()]

    def get(self, name: str, token: str) -> Record:
        """The record of a token."""
        record = self._index[name].get(token)
        if record is None:
            raise DatasetError(f"{self.file(name)} has no record {token!r}, which others name.")
        return record

    def value(self, name: str, record: Mapping[str, Any], field: str, size: int) -> np.ndarray:
        """A field of `size` finite numbers, float64."""
        found = _numbers(record[field])
        if found.shape != (size,):
            raise DatasetError(
                f"{self.file(name)}: {field} of {record['token']} must be {size} finite numbers, it "
                f"is {record[field]!r}."
            )
        return found

    def pose(self, name: str, record: Mapping[str, Any]) -> np.ndarray:
        """The transform [4, 4] of a record's rotation and translation."""
        turn = self.value(name, record, "rotation", 4)
        if abs(np.linalg.norm(turn) - 1) > UNIT:
            raise DatasetError(
                f"{self.file(name)}: the rotation of {record['token']} is no unit quaternion: "
                f"{record['rotation']}."
            )
        return transform(turn, self.value(name, record, "translation", 3))

    def channel(self, record: Mapping[str, Any]) -> str:
        """The sensor of a record of sample_data, by its name."""
        sensor = self.get("calibrated_sensor", record["calibrated_sensor_token"])
        return self.get("sensor", sensor["sensor_token"])["channel"]

    def key_frame(self, sample: Mapping[str, Any], channel: str) -> Record:
        """What a sensor recorded for a sample."""
        record = self.key_frames.get((sample["token"], channel))
        if record is None:
            scene = self.get("scene", sample["scene_token"])["name"]
            raise DatasetError(
                f"{self.file('sample_data')} has no key frame of {channel} for the sample "
                f"{sample['token']} of {scene}: each sample needs {', '.join(CAMERAS)} and {LIDAR}."
            )
        return record

    def sensor_to_global(self, record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """(sensor to ego, ego to global) at the moment of a record of sample_data."""
        calibrated = self.get("calibrated_sensor", record["calibrated_sensor_token"])
        ego = self.get("ego_pose", record["ego_pose_token"])
        return self.pose("calibrated_sensor", calibrated), self.pose("ego_pose", ego)

    def intrinsics(self, record: Mapping[str, Any]) -> np.ndarray:
        """[3, 3] of a camera's record."""
        calibrated = self.get("calibrated_sensor", record["calibrated_sensor_token"])
        found = _numbers(calibrated["camera_intrinsic"])
        if found.shape != (3, 3) or np.diag(found).min() <= 0 or np.tril(found, -1).any():
            raise DatasetError(
                f"{self.file('calibrated_sensor')}: camera_intrinsic of {calibrated['token']} is no "
                f"camera's: {calibrated['camera_intrinsic']}."
            )
        return found

    def category(self, annotation: Mapping[str, Any]) -> str:
        """The name of an annotation's category."""
        instance = self.get("instance", annotation["instance_token"])
        return self.get("category", instance["category_token"])["name"]

    def velocity(self, annotation: Mapping[str, Any]) -> np.ndarray:
        """[3] in m/s in the global frame: between the annotations before and after it, NaN where
        they are too far apart in time, or there are none."""
        first, last = (
            self.get("sample_annotation", annotation[side]) if annotation[side] else annotation
            for side in ("prev", "next")
        )
        begin, end = (
            1e-6 * self.get("sample", a["sample_token"])["timestamp"] for a in (first, last)
        )
        longest = LONGEST_GAP * (2 if annotation["prev"] and annotation["next"] else 1)
        if not 0 < end - begin <= longest:
            return np.full(3, np.nan)
        moved = np.subtract(last["translation"], first["translation"])
        return moved / (end - begin)

    def _if_used(self, record: Record) -> bool:
        return record["is_key_frame"] and self.channel(record) in (*CAMERAS, LIDAR)

    def _load(self, name: str, wanted: Callable[[Record], bool] | None = None) -> dict[str, Record]:
        """A table by token; of records that are not wanted nothing is kept."""

        def hook(record: Record) -> Record | None:
            if lacking := {"token", *TABLES[name]} - record.keys():
                raise DatasetError(
                    f"{self.file(name)}: a record lacks {sorted(lacking)}: {record}."
                )
            return record if wanted is None or wanted(record) else None

        try:
            with open_file(self.file(name)) as file:
                rows = json.load(file, object_hook=hook)
            return {record["token"]: record for record in rows if record is not None}
        except DatasetError:
            raise
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise DatasetError(f"{self.file(name)} is no table of nuScenes: {error!r}") from error

    def _by(self, name: str, field: str) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for record in self.rows(name):
            found.setdefault(record[field], []).append(record)
        return found


def _numbers(value: Any) -> np.ndarray:
    """As float64; of no shape that is asked for where they are no finite numbers."""
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return np.zeros(0)
    return found if np.isfinite(found).all() else np.zeros(0)


def between(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """From the frame that `here` takes to global into the one that `there` does."""
    return inverse(there) @ here


def tables(folder: Path) -> Tables:
    """The tables as they are now; those read last are kept, since a search opens a set repeatedly."""
    try:
        stamps = tuple((folder / f"{name}.json").stat().st_mtime_ns for name in TABLES)
    except OSError:
        stamps = ()
    return _tables(folder, stamps)


@lru_cache(maxsize=2)
def _tables(folder: Path, stamps: tuple[int, ...]) -> Tables:
    return Tables(folder)
