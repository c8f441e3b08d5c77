"""nuScenes' reader on a made set: geometry, splits, and what is refused before training."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsevit.data.driving import ATTRIBUTES, CLASS_NAMES, inverse, rotation
from sparsevit.data.make import nuscenes as making
from sparsevit.data.make.traffic import Thing, draw
from sparsevit.data.nuscenes import NuScenes
from sparsevit.data.nuscenes_tables import CAMERAS
from sparsevit.errors import DatasetError

SIZE = (54, 96)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nuscenes")
    assert len(list(making.make(root, {"train": 6, "val": 3}, SIZE, seed=1))) == 9
    return root


@pytest.fixture
def spoiled(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "nuscenes"))


def opened(root: Path, split: str = "val") -> NuScenes:
    return NuScenes(root, split, CLASS_NAMES)


def change(root: Path, table: str, edit: Callable[[Rows], Any]) -> None:
    path = root / making.VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    edited = edit(rows)
    path.write_text(json.dumps(rows if edited is None else edited))


def test_a_sample_is_six_images_with_their_cameras_and_boxes(made: Path) -> None:
    data = opened(made)
    assert NuScenes.recognises(made)
    assert len(data) == 3
    data.check()
    images, frame = data.sample(1)
    assert images.shape == (6, *SIZE, 3)
    assert [path.parent.name for path in data.files(1)] == list(CAMERAS)
    assert len(frame.cameras) == 6
    ahead = frame.cameras.to_ego[:, :3, 2]
    looks = np.radians([making.MOUNTED[camera][0] for camera in CAMERAS])
    assert np.allclose(ahead[:, 0], np.cos(looks), atol=0.06)
    assert np.allclose(ahead[:, 1], np.sin(looks), atol=0.06)
    assert set(frame.boxes.classes) == set(range(10))
    assert len(frame.racks) == 1
    assert frame.boxes.attributes.min() == -1
    assert frame.boxes.attributes.max() < len(ATTRIBUTES)


def test_velocities_are_what_the_things_do_between_samples(made: Path) -> None:
    """Things move straight: all samples of a scene know the same speed, in the global frame."""
    frames = [opened(made, "train").frame(i) for i in range(5)]
    speeds = [frame.boxes.moved(frame.ego_to_global).velocities for frame in frames]
    assert np.allclose(speeds, speeds[0], atol=1e-6)
    moving = np.linalg.norm(speeds[0], axis=1) > 0.1
    assert 0 < moving.sum() < len(moving)
    places = [frame.boxes.moved(frame.ego_to_global).centers for frame in frames]
    assert np.allclose(places[4] - places[0], 4 * making.STEP * speeds[0], atol=1e-6)


def test_a_scene_of_one_sample_knows_no_velocity(made: Path) -> None:
    assert np.isnan(opened(made, "train").frame(5).boxes.velocities).all()


def test_things_are_drawn_where_the_cameras_project_them() -> None:
    """One red box before one camera; its corners by hand: K (R (p - t)), R from the quaternion."""
    turn = rotation([0.5, -0.5, 0.5, -0.5])  # looks along x of the global frame
    camera = np.eye(4)
    camera[:3, :3], camera[:3, 3] = turn, [1, 2, 1.5]
    matrix = np.array([[120.0, 0, 64], [0, 120, 36], [0, 0, 1]])
    red = Thing("vehicle.car", "", (255, 0, 0), np.array([2, 4, 1.5]), np.array([12, 3, 0.75]), 0.4,
                0.0)  # fmt: skip
    image = draw([red], 0.0, camera, matrix, (72, 128), "train", np.random.default_rng(0)).image
    pixels = np.asarray(image).astype(int)
    rows, columns = np.nonzero(pixels[..., 0] > pixels[..., 1] + 40)
    seen = []
    for x, y, z in [(a, b, c) for a in (-2, 2) for b in (-1, 1) for c in (-0.75, 0.75)]:
        point = (12 + x * math.cos(0.4) - y * math.sin(0.4), 3 + x * math.sin(0.4) + y * math.cos(0.4),
                 0.75 + z)  # fmt: skip
        right, down, ahead = 2 - point[1], 1.5 - point[2], point[0] - 1
        seen.append((120 * right / ahead + 64, 120 * down / ahead + 36))
    corners = np.array(seen)
    assert [columns.min(), rows.min()] == pytest.approx(corners.min(axis=0), abs=1.1)
    assert [columns.max(), rows.max()] == pytest.approx(corners.max(axis=0), abs=1.1)


def test_the_cars_own_motion_is_in_the_cameras_places(made: Path) -> None:
    """A camera's picture is taken up to 42 ms before the lidar's moment: 25 cm at 6 m/s."""
    frame = opened(made).frame(0)
    for place, camera in zip(frame.cameras.to_ego[:, :3, 3], CAMERAS, strict=True):
        _, mounted, _, early = making.MOUNTED[camera]
        assert place[:2] == pytest.approx([mounted[0] - 6 * early / 1000, mounted[1]], abs=1e-3)


def test_official_scenes_make_the_splits(made: Path) -> None:
    names = {
        split: {data.tables.get("scene", row["scene_token"])["name"] for row in data.samples}
        for split in ("train", "val")
        for data in [opened(made, split)]
    }
    assert names == {"train": {"scene-0001", "scene-0002"}, "val": {"scene-0003"}}


def test_a_list_of_scenes_makes_a_split(spoiled: Path) -> None:
    path = spoiled / making.VERSION / "splits.json"
    path.write_text(json.dumps({"night": ["scene-0002", "scene-0003"]}))
    data = opened(spoiled, "night")
    assert len(data) == 4
    assert path in data.shared_files()
    with pytest.raises(DatasetError, match=r"no scene of the split 'val'.*splits\.json"):
        len(opened(spoiled))


def test_mini_has_splits_of_its_own(spoiled: Path) -> None:
    (spoiled / making.VERSION).rename(spoiled / "v1.0-mini")
    path = spoiled / "v1.0-mini" / "scene.json"
    path.write_text(path.read_text().replace("scene-0003", "scene-0103"))
    assert len(opened(spoiled, "mini_val")) == len(opened(spoiled, "val")) == 3
    assert len(opened(spoiled, "mini_train")) == 6


def test_records_between_key_frames_are_left_alone(spoiled: Path) -> None:
    def more(rows: Rows) -> Rows:
        return rows + [
            row | {"token": f"{row['token']}-", "is_key_frame": False, "filename": "sweeps/x.jpg"}
            for row in rows
        ]

    before = opened(spoiled).files(0)
    change(spoiled, "sample_data", more)
    assert opened(spoiled).files(0) == before


def drop(table: str, fits: Callable[[dict[str, Any]], bool]) -> Callable[[Path], None]:
    return lambda root: change(root, table, lambda rows: [row for row in rows if not fits(row)])


def put(table: str, **fields: Any) -> Callable[[Path], None]:
    """In every record that has the fields, if they are not empty."""

    def edit(rows: Rows) -> None:
        for row in rows:
            row.update({k: v for k, v in fields.items() if row[k]})

    return lambda root: change(root, table, edit)


def first_image(root: Path) -> Path:
    return opened(root).files(0)[2]


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a table is missing": (
        lambda root: (root / making.VERSION / "ego_pose.json").unlink(),
        r"ego_pose\.json is missing"),
    "a table is cut off": (
        lambda root: (root / making.VERSION / "sample.json").write_text('[{"token": '),
        r"sample\.json is no table"),
    "a field is missing": (
        lambda root: change(root, "ego_pose", lambda rows: rows[0].pop("rotation") and None),
        r"ego_pose\.json: a record lacks \['rotation'\]"),
    "a scene without camera records": (
        drop("sample_data", lambda row: "CAM_" in row["filename"]),
        r"sample_data\.json has no key frame of CAM_FRONT_LEFT .* scene-0003"),
    "a camera is missing": (
        drop("sample_data", lambda row: "CAM_BACK_" in row["filename"]),
        "no key frame of CAM_BACK_LEFT"),
    "lidar sweeps are missing": (
        drop("sample_data", lambda row: "LIDAR" in row["filename"]), "no key frame of LIDAR_TOP"),
    "a scene without samples": (
        lambda root: change(root, "sample", lambda rows: rows[:6]),
        r"sample\.json has no sample of scene-0003"),
    "a token of nothing": (
        drop("instance", lambda row: True), r"instance\.json has no record"),
    "intrinsics with NaN": (
        put("calibrated_sensor", camera_intrinsic=[[math.nan, 0, 1], [0, 1, 1], [0, 0, 1]]),
        r"calibrated_sensor\.json: camera_intrinsic of \w+ is no camera's"),
    "singular intrinsics": (
        put("calibrated_sensor", camera_intrinsic=[[9, 0, 1], [0, 0, 1], [0, 0, 1]]),
        "is no camera's"),
    "no intrinsics": (
        put("calibrated_sensor", camera_intrinsic=[]), "is no camera's"),
    "a rotation that is none": (
        put("calibrated_sensor", rotation=[1, 1, 0, 0]),
        r"calibrated_sensor\.json: the rotation of \w+ is no unit quaternion"),
    "a pose that is nowhere": (
        put("ego_pose", translation=[0, math.inf, 0]),
        r"ego_pose\.json: translation of \w+ must be 3 finite"),
    "a flat box": (
        put("sample_annotation", size=[0, 1, 1]),
        r"sample_annotation\.json: the box \w+ has no size"),
    "an image is missing": (
        lambda root: first_image(root).unlink(), r"CAM_FRONT_RIGHT.*\.jpg is missing"),
    "an image of another size": (
        lambda root: shutil.copy(next((root / "maps").glob("*")), first_image(root)),
        r"is 32 x 32 .* its record says 54 x 96"),
    "an image elsewhere": (
        put("sample_data", filename="../x.jpg"), "leads out of the data set"),
    "splits that are none": (
        lambda root: (root / making.VERSION / "splits.json").write_text("[]"),
        "must map names of splits"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_before_training(fault: str, spoiled: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(spoiled)
    with pytest.raises(DatasetError, match=message):
        opened(spoiled).check()


def test_another_models_classes_are_refused(made: Path) -> None:
    with pytest.raises(DatasetError, match="whose classes are car, truck"):
        NuScenes(made, "val", ("car", "tram"))


def test_a_rigid_transforms_inverse_leads_back() -> None:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation([0.8, 0.2, -0.4, 0.4]), [3, -2, 9]
    assert np.allclose(inverse(pose) @ pose, np.eye(4))
