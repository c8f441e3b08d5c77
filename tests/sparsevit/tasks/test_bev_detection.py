"""BEVDet on a made set: its boxes there and back, augmentation, its released checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sparsevit
from sparsevit import metrics
from sparsevit.data.driving import CLASS_NAMES, Frame
from sparsevit.data.make import nuscenes as making
from sparsevit.data.nuscenes import NuScenes
from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.evaluate import evaluate
from sparsevit.search.steps import Session
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.bev_detection import BEVDET, BEVDet
from sparsevit.tasks.bevdet.center import GROUPS, PARTS
from sparsevit.tasks.bevdet.targets import group_target
from sparsevit.tasks.bevdet.view import Grid
from tests.sparsevit.tasks import detectors


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuscenes")
    list(making.make(folder, {"train": 2, "val": 4}, (90, 160), seed=5))
    return folder


@pytest.fixture(scope="module")
def data(root: Path) -> NuScenes:
    return NuScenes(root, "val", CLASS_NAMES)


def test_images_are_prepared_as_the_released_code_does() -> None:
    """resize_test .04: 1600 pixels to .48, the lowest 256 rows of the middle 704 columns, channels
    swapped, then mean and deviation in the order of RGB."""
    image = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    picture = Image.fromarray(image).resize((768, 432), Image.Resampling.BICUBIC)
    cut = np.array(picture.crop((32, 176, 736, 432))).astype(np.float32)[..., ::-1]
    expected = (cut - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    found = BEVDET([np.stack([image] * 6)])
    assert found.shape == (6, 3, 256, 704)
    np.testing.assert_allclose(found[4].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(
        BEVDET.placement(900, 1600), [[0.48, 0, -32], [0, 0.48, -176], [0, 0, 1]]
    )


@pytest.mark.parametrize("frame", ["lidar", "ego"])
def test_boxes_written_into_the_maps_are_read_back(frame: str, data: NuScenes) -> None:
    """Maps that are what they should be find everything, exactly; in either release's way."""
    model = BEVDet(SparseSwin(detectors.SWIN, out_stages=(2, 3)), widths=detectors.WIDTHS,
                   grid=Grid(), frame=frame)  # fmt: skip
    samples = [data.frame(i) for i in range(3)]
    outputs = [perfect(group, model, samples) for group in GROUPS]
    state = metrics.merge(model.states(outputs, samples), model.metric)
    details = metrics.details(state, model.metric)
    assert details["mAP"] > 0.99
    for error in ("mATE", "mASE", "mAOE", "mAVE"):
        assert details[error] == pytest.approx(0, abs=0.02 if error == "mAVE" else 2e-3)
    loss = sparsevit.tasks.bevdet.targets.center_loss(outputs, frame, model.grid, samples)
    assert loss.item() < 0.1


def perfect(group: tuple[str, ...], model: BEVDet, samples: list[Frame]) -> dict:
    targets = [group_target(group, model.frame, model.grid, sample) for sample in samples]
    cells = model.grid.cells
    maps = {name: torch.zeros(len(samples), size, cells * cells) for name, size in PARTS.items()}
    heat = torch.full((len(samples), len(group), cells, cells), -12.0)
    for i, target in enumerate(targets):
        heat[i][torch.from_numpy(target.heat == 1)] = 9.0
        parts = torch.from_numpy(target.parts).nan_to_num().split([*PARTS.values()], 1)
        for name, part in zip(PARTS, parts, strict=True):
            maps[name][i, :, target.cells] = part.T
    return {name: part.unflatten(2, (cells, cells)) for name, part in maps.items()} | {
        "heatmap": heat
    }


def test_augmented_images_show_things_where_their_cameras_say(data: NuScenes) -> None:
    """A patch is painted where a box's center is seen; after everything that augmentation does to
    pixels and space, the cameras still find it there."""
    model, (images, sample) = detectors.small(), data.sample(0)
    seen = [(v, *at) for v in range(6) for at in projected(sample, v) if inside(at, (90, 160))]
    assert len(seen) >= 3
    for number, (view, box, x, y) in enumerate(seen[:6]):
        painted = np.zeros_like(images)
        painted[view, round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5] = 255
        for seed in range(6):
            rng = np.random.default_rng([number, seed]) if seed else None
            varied, frame = model.augment(painted, sample, (90, 160), rng)
            assert varied.shape == images.shape
            rows, columns = np.nonzero(varied[view].sum(-1) > 300)
            (here,) = [at for at in projected(frame, view) if at[0] == box]
            if inside(here, (90, 160)) and len(rows) > 20:
                assert (columns.mean(), rows.mean()) == pytest.approx(here[1:], abs=1.5)


def projected(sample: Frame, view: int) -> list[tuple[int, float, float]]:
    """(box, x, y) in pixels of the given images, of the boxes before the camera."""
    cameras = sample.cameras
    points = np.concatenate([sample.boxes.centers, np.ones((len(sample.boxes), 1))], 1)
    seen = (np.linalg.inv(cameras.to_ego[view]) @ points.T)[:3]
    x, y, _ = cameras.pixels[view] @ cameras.intrinsics[view] @ (seen / seen[2])
    return [(i, x[i], y[i]) for i in range(len(points)) if seen[2, i] > 2]


def inside(at: tuple[int, float, float], size: tuple[int, int]) -> bool:
    return 8 < at[1] < size[1] - 8 and 8 < at[2] < size[0] - 8


def test_boxes_move_as_cameras_do(data: NuScenes) -> None:
    """Mirrored, turned and grown: sizes, yaws and velocities of a box that can be told by hand."""
    sample = data.frame(1)
    model = detectors.small()
    _, moved = model.augment(np.zeros((6, 90, 160, 3), np.uint8), sample, (90, 160),
                             np.random.default_rng(3))  # fmt: skip
    growth = np.linalg.norm(moved.boxes.centers[0]) / np.linalg.norm(sample.boxes.centers[0])
    assert 0.95 <= growth <= 1.05
    np.testing.assert_allclose(moved.boxes.sizes, growth * sample.boxes.sizes)
    for boxes in (sample.boxes, moved.boxes):
        fast = np.linalg.norm(boxes.velocities, axis=1) > 1
        heading = np.stack([np.cos(boxes.yaws), np.sin(boxes.yaws)], 1)[fast]
        speed = boxes.velocities[fast, :2]
        assert np.allclose((heading * speed).sum(1), np.linalg.norm(speed, axis=1), rtol=1e-3)


def test_a_released_checkpoint_loads_whole_and_is_written_back(
    tmp_path: Path, data: NuScenes
) -> None:
    made = detectors.small()
    path = detectors.save(made, tmp_path / "bevdet.pth")
    model = sparsevit.load_model(path)
    assert isinstance(model, BEVDet)
    assert (model.grid, model.widths, model.frame) == (made.grid, made.widths, "lidar")
    assert model.preprocess == BEVDET
    assert model.backbone.out_stages == (2, 3)
    assert model.dialect == "openmmlab"
    model.preprocess = made.preprocess
    images, sample = data.sample(0)
    x = made.preprocess([images])
    with torch.no_grad():
        for one in (made, model):
            one.attend(x, [sample])
        for ours, others in zip(made(x), model(x), strict=True):
            for name, part in ours.items():
                assert torch.equal(part, others[name])

    sparsevit.save_model(model, tmp_path / "tuned.safetensors")
    written = load_file(tmp_path / "tuned.safetensors")
    for name, tensor in detectors.theirs(made).items():
        assert torch.equal(written[name], tensor), name
    again = sparsevit.load_model(tmp_path / "tuned.safetensors")
    assert again.preprocess == made.preprocess
    assert again.describe() == model.describe()


def test_the_second_release_keeps_no_grid_in_its_file(tmp_path: Path) -> None:
    tensors = {
        k: v
        for k, v in detectors.theirs(detectors.small()).items()
        if not k.startswith("img_view_transformer.") or "depthnet" in k
    }
    torch.save({"state_dict": tensors}, tmp_path / "bevdet.pth")
    assert sparsevit.load_model(tmp_path / "bevdet.pth").grid == Grid(depths=8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda t: t.pop("img_bev_encoder_neck.up2.4.bias"),
            "lacks img_bev_encoder_neck.up2.4.bias",
        ),
        (lambda t: t.pop("pts_bbox_head.task_heads.3.vel.1.bias"), "task_heads.3.vel.1.bias"),
        (lambda t: t.update({"img_view_transformer.nx": torch.tensor([16.0, 8, 1])}), "no square"),
        (lambda t: t["img_view_transformer.frustum"].select(3, 2)[0].fill_(9), "not evenly spaced"),
        (lambda t: t.update({"pts_bbox_head.extra.weight": torch.ones(2)}), "no place for"),
    ],
)
def test_half_a_detector_is_refused(spoil, message: str, tmp_path: Path) -> None:
    tensors = {k: v.clone() for k, v in detectors.theirs(detectors.small()).items()}
    spoil(tensors)
    torch.save(tensors, tmp_path / "bevdet.pth")
    with pytest.raises(CheckpointMismatch, match=message):
        sparsevit.load_model(tmp_path / "bevdet.pth")


def test_what_makes_no_detector() -> None:
    with pytest.raises(ConfigError, match="two stages in a row"):
        BEVDet(SparseSwin(detectors.SWIN))
    backbone = SparseSwin(detectors.SWIN, out_stages=(2, 3))
    with pytest.raises(ConfigError, match="halves the map three times"):
        BEVDet(backbone, grid=Grid(cells=20))
    with pytest.raises(ConfigError, match="one of lidar, ego"):
        BEVDet(backbone, frame="camera")
    model = detectors.small()
    model.preprocess = replace(model.preprocess, crop_pct=None, slide=0.5)
    with pytest.raises(ConfigError, match=r"preprocess\.slide must be null"):
        model.attend(torch.zeros(6, 3, 8, 8), [])


def test_each_sample_is_evaluated_with_its_own_cameras(data: NuScenes) -> None:
    """Alone, in a batch, and by the trie: the same states."""
    model = detectors.small()
    genes = [(0, 0, 0, 0), (5, 5, 5, 5)]
    alone = evaluate(model, genes, "variance", data, [0, 1, 2], batch=6)
    together = evaluate(model, genes, "variance", data, [0, 1, 2], batch=18)
    for singles, batches in zip(alone, together, strict=True):
        assert len(singles) == 3
        assert len(batches) == 1
        merged = metrics.merge(singles, model.metric)
        assert metrics.value(merged, model.metric) == pytest.approx(
            metrics.value(batches[0], model.metric), abs=1e-6
        )


def test_a_batch_counts_samples_of_six_images(root: Path) -> None:
    model = detectors.small()
    session = Session(model, str(root), input={"height": 32, "width": 64, "batch": 2})
    images = session.latency_images(2)
    assert images.shape == (12, 3, *detectors.SIZE)
    with torch.no_grad():
        assert session.model(images)[0]["heatmap"].shape == (2, 1, 16, 16)


def test_the_loss_reaches_every_parameter_and_leaves_out_what_is_unknown(data: NuScenes) -> None:
    model = detectors.small().train()
    images, sample = data.sample(0)
    image, target = model.augment(images, sample, detectors.SIZE, np.random.default_rng(0))
    x = replace(model.preprocess, resize=None, crop_pct=None)([image])
    unknown = np.full_like(target.boxes.velocities, np.nan)
    target = replace(target, boxes=replace(target.boxes, velocities=unknown))
    loss = model.loss(x, [target])
    loss.backward()
    # Of a bias the signs of L1 may cancel.
    still = [n for n, p in model.named_parameters() if p.ndim > 1 and not p.grad.abs().sum() > 0]
    assert [name for name in still if ".vel." not in name] == []
    assert any(".vel." in name for name in still)
    assert math.isfinite(loss.item())
    empty = replace(target, points=np.zeros_like(target.points))
    assert math.isfinite(model.loss(x, [empty]).item())
