"""nuScenes: `v1.0-*/NAME.json` tables, `samples/CAM_*/NAME.jpg` images; read without its devkit.

A sample is six images taken at nearly one moment. Splits are made of whole scenes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparsevit.data.base import Progress, for_each
from sparsevit.data.driving import (
    ATTRIBUTES,
    CLASS_NAMES,
    NO_ATTRIBUTE,
    Boxes,
    Cameras,
    Frame,
    inverse,
)
from sparsevit.data.images import image_size, read_image
from sparsevit.data.listing import check_link
from sparsevit.data.nuscenes_tables import CAMERAS, LIDAR, TABLES, Record, Tables, between, tables
from sparsevit.errors import DatasetError
from sparsevit.opening import open_file

# The benchmark's classes of nuScenes' categories; all other categories are not detected.
CLASS_OF = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
RACK = "static_object.bicycle_rack"
# The numbers of the scenes in the official splits; train is the rest of v1.0-trainval.
VAL = (
    (3, 3), (12, 18), (35, 36), (38, 39), (92, 110), (221, 221), (268, 278), (329, 332),
    (344, 346), (519, 524), (552, 565), (625, 627), (629, 630), (632, 638), (770, 771), (775, 775),
    (777, 778), (780, 784), (794, 800), (802, 802), (904, 917), (919, 931), (962, 963),
    (966, 969), (971, 972), (1059, 1073),
)  # fmt: skip
MINI_VAL = ("scene-0103", "scene-0916")
SPLITS = "splits.json"


@dataclass(frozen=True)
class NuScenes:
    """One split; an image is uint8 [6, H, W, 3], in the order of CAMERAS, a target a Frame.

    split: "train" or "val" as the benchmark has them ("mini_train", "mini_val" of v1.0-mini), or a
    list of scene names in `v1.0-*/splits.json`, {"NAME": ["scene-0001", ...]}, which the devkit
    reads too. Annotations of categories that the benchmark does not detect are left out.
    """

    layout: ClassVar[str] = (
        "v1.0-trainval/{scene,sample,sample_data,...}.json, samples/CAM_*/NAME.jpg, and scenes for "
        "the split SPLIT"
    )

    root: Path
    split: str
    class_names: Sequence[str]

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return any(root.glob("v1.0-*/sample_data.json"))

    def __post_init__(self) -> None:
        if tuple(self.class_names) != CLASS_NAMES:
            raise DatasetError(
                f"{self.root} is nuScenes, whose classes are {', '.join(CLASS_NAMES)}; the model has "
                f"{', '.join(self.class_names)}."
            )

    @cached_property
    def folder(self) -> Path:
        """The version's folder that holds the split."""
        versions = sorted(path for path in self.root.glob("v1.0-*") if path.is_dir())
        wanted = "v1.0-mini" if self.split.startswith("mini_") else "v1.0-trainval"
        for fits in (
            lambda path: self.split in _own_splits(path),
            lambda path: path.name == wanted,
            lambda path: len(versions) == 1,
        ):
            for path in filter(fits, versions):
                check_link(str(path), os.path.realpath(self.root))
                return path
        raise DatasetError(f"there is no folder {self.root / wanted}: expected {self.layout}.")

    @cached_property
    def tables(self) -> Tables:
        return tables(self.folder)

    @cached_property
    def samples(self) -> list[Record]:
        """Records of `sample`, scene by scene in their order, each in the order of time."""
        found = []
        for scene in self.tables.rows("scene"):
            if self._in_split(scene["name"]):
                rows = self.tables.samples.get(scene["token"])
                if not rows:
                    raise DatasetError(
                        f"{self.tables.file('sample')} has no sample of {scene['name']}."
                    )
                found += sorted(rows, key=lambda row: row["timestamp"])
        if not found:
            raise DatasetError(
                f"{self.tables.file('scene')} has no scene of the split {self.split!r}; splits are "
                f"train and val, or as listed in {self.folder / SPLITS}."
            )
        return found

    def _in_split(self, name: str) -> bool:
        own = _own_splits(self.folder)
        if own:
            return name in own.get(self.split, ())
        mini = self.folder.name == "v1.0-mini"
        part = self.split.removeprefix("mini_") if mini else self.split
        if part not in ("train", "val"):
            return False
        held = name in MINI_VAL if mini else any(a <= _number(name) <= b for a, b in VAL)
        return held == (part == "val")

    def __len__(self) -> int:
        return len(self.samples)

    def shared_files(self) -> tuple[Path, ...]:
        """The tables, and the list of splits where there is one."""
        own = self.folder / SPLITS
        return (*map(self.tables.file, TABLES), *([own] if own.exists() else ()))

    def files(self, index: int) -> tuple[Path, ...]:
        """The images."""
        return tuple(self._image(record) for record in self._records(index))

    def sample(self, index: int) -> tuple[np.ndarray, Frame]:
        images = [read_image(path) for path in self.files(index)]
        self._check_sizes(index, [image.shape[:2] for image in images])
        return np.stack(images), self.frame(index)

    def check(self, progress: Progress | None = None, indices: Sequence[int] | None = None) -> None:
        for_each(self._check, range(len(self)) if indices is None else indices, progress)

    def frame(self, index: int) -> Frame:
        """Cameras and annotations of a sample."""
        sample, found = self.samples[index], self.tables
        lidar_to_ego, ego_to_global = found.sensor_to_global(found.key_frame(sample, LIDAR))
        to_ego, intrinsics = [], []
        for record in self._records(index):
            camera, ego = found.sensor_to_global(record)
            to_ego.append(between(ego @ camera, ego_to_global))
            intrinsics.append(found.intrinsics(record))
        annotations = [(a, found.category(a)) for a in found.annotations.get(sample["token"], ())]
        detected = [a for a, category in annotations if category in CLASS_OF]
        racks = [a for a, category in annotations if category == RACK]
        into_ego = inverse(ego_to_global)
        return Frame(
            token=sample["token"],
            cameras=Cameras(
                np.array(intrinsics),
                np.stack([np.eye(3)] * len(CAMERAS)),
                np.array(to_ego),
                (record["height"], record["width"]),
            ),
            lidar_to_ego=lidar_to_ego,
            ego_to_global=ego_to_global,
            boxes=self._boxes(detected).moved(into_ego),
            points=np.array([_points(a) for a in detected], np.int64),
            racks=self._boxes(racks).moved(into_ego),
        )

    def _boxes(self, annotations: Sequence[Record]) -> Boxes:
        """In the global frame."""
        if not annotations:
            return Boxes.none()
        found, name = self.tables, "sample_annotation"
        poses = np.array([found.pose(name, a) for a in annotations])
        sizes = np.array([found.value(name, a, "size", 3) for a in annotations])
        if sizes.min() <= 0:
            flat = annotations[int(sizes.min(axis=1).argmin())]
            raise DatasetError(f"{found.file(name)}: the box {flat['token']} has no size.")
        classes = [CLASS_OF.get(found.category(a)) for a in annotations]
        return Boxes(
            centers=poses[:, :3, 3],
            sizes=sizes,
            rotations=poses[:, :3, :3],
            velocities=np.array([found.velocity(a) for a in annotations]),
            classes=np.array([CLASS_NAMES.index(c) if c else -1 for c in classes]),
            attributes=np.array([self._attribute(a) for a in annotations]),
        )

    def _attribute(self, annotation: Record) -> int:
        tokens = annotation["attribute_tokens"]
        if len(tokens) > 1:
            raise DatasetError(
                f"{self.tables.file('sample_annotation')}: {annotation['token']} has several "
                "attributes; nuScenes allows one."
            )
        names = [self.tables.get("attribute", token)["name"] for token in tokens]
        known = [name for name in names if name in ATTRIBUTES]
        return ATTRIBUTES.index(known[0]) if known else NO_ATTRIBUTE

    def _records(self, index: int) -> list[Record]:
        return [self.tables.key_frame(self.samples[index], camera) for camera in CAMERAS]

    def _image(self, record: Record) -> Path:
        path = self.root / record["filename"]
        if ".." in path.parts or path == Path(record["filename"]):
            raise DatasetError(
                f"{self.tables.file('sample_data')}: {record['filename']} leads out of the data set."
            )
        return path

    def _check(self, index: int) -> None:
        """All but the pixels of a sample."""
        real = os.path.realpath(self.root)
        for path in self.files(index):
            if not path.is_file():
                raise DatasetError(
                    f"{path} is missing, an image of {self.tables.file('sample_data')}."
                )
            check_link(str(path), real)
        self._check_sizes(index, [image_size(path) for path in self.files(index)])
        self.frame(index)

    def _check_sizes(self, index: int, sizes: Sequence[tuple[int, int]]) -> None:
        for record, path, size in zip(self._records(index), self.files(index), sizes, strict=True):
            stated = (record["height"], record["width"])
            if size != stated or size != sizes[0]:
                raise DatasetError(
                    f"{path} is {size[0]} x {size[1]} (height x width); its record says {stated[0]} x "
                    f"{stated[1]}, and the images of a sample must have one size."
                )


def _points(annotation: Mapping[str, Any]) -> int:
    return annotation["num_lidar_pts"] + annotation["num_radar_pts"]


def _number(scene: str) -> int:
    digits = scene.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1


def _own_splits(folder: Path) -> dict[str, list[str]]:
    """What `splits.json` beside the tables says; {} where there is none."""
    path = folder / SPLITS
    if not path.exists():
        return {}
    try:
        with open_file(path) as file:
            found = json.load(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if not isinstance(found, dict) or not all(isinstance(v, list) for v in found.values()):
        raise DatasetError(f"{path} must map names of splits to lists of scene names.")
    return found
