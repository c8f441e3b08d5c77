"""Preprocessing read from files: the pixels that the libraries' own processors give the network."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sparsevit
from sparsevit.data.preprocess import Preprocess
from sparsevit.errors import CheckpointMismatch
from sparsevit.tasks.preprocessing import read_preprocess
from tests.oracles import import_torchvision
from tests.sparsevit.checkpoints.networks import transformers
from tests.sparsevit.tasks.classifiers import SIZE, hugging_network, timm_network

SIZES = [(150, 200), (333, 227), (64, 64)]
DEFAULT = Preprocess()


def picture(size: tuple[int, int]) -> np.ndarray:
    """Noise on shades: every interpolation gives other pixels of it."""
    generator = np.random.default_rng(0)
    rows, cols = np.mgrid[: size[0], : size[1]]
    shades = (rows[..., None] + 2 * cols[..., None]) % 200
    return (shades + generator.integers(0, 56, (*size, 3))).astype(np.uint8)


def read(folder: Path, **document) -> Preprocess:
    """What is read of such a preprocessor_config.json, without a warning."""
    (folder / "preprocessor_config.json").write_text(json.dumps(document))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made, notes = read_preprocess(folder, None, DEFAULT)
    assert notes == ()
    return made


CASES = [
    ("ViTImageProcessorPil", {"size": {"height": 112, "width": 112}, "resample": 3}),
    ("ViTImageProcessorPil", {"size": {"height": 96, "width": 128}, "resample": 2}),
    ("ViTImageProcessorPil", {"size": {"height": 96, "width": 128}, "resample": 0}),
    ("ViTImageProcessorPil", {"do_normalize": False, "size": {"height": 64, "width": 64}}),
    ("ViTImageProcessorPil", {"rescale_factor": 1 / 127.5, "size": {"height": 64, "width": 64}}),
    (
        "ViTImageProcessorPil",
        {"do_rescale": False, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
    ),
    (
        "SegformerImageProcessorPil",
        {"size": {"height": 128, "width": 160}, "do_reduce_labels": True},
    ),
    ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}, "crop_pct": 0.875}),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_pixels_are_those_of_the_real_processor(
    tmp_path: Path, name: str, settings: dict, size: tuple[int, int]
) -> None:
    theirs = getattr(transformers(), name)(**settings)
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    ours = read(tmp_path, **saved)([picture(size)])
    expected = theirs(Image.fromarray(picture(size)), return_tensors="pt").pixel_values
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, atol=1e-5)


def test_the_middle_of_an_odd_rest_is_torchvisions(tmp_path: Path) -> None:
    """torchvision and timm round half to even, transformers on Pillow down: a row apart."""
    theirs = transformers().ConvNextImageProcessorPil(size={"shortest_edge": 112}, crop_pct=0.875)
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    ours = read(tmp_path, **saved)
    for size, rows in (((150, 200), 0), ((333, 227), 1)):  # 128 x 170 and 187 x 128 before the cut
        expected = theirs(Image.fromarray(picture(size)), return_tensors="pt").pixel_values
        made = ours([picture(size)])
        assert torch.allclose(made[:, :, : 112 - rows], expected[:, :, rows:], atol=1e-5)


def test_auto_processors_files_are_read_with_the_model(tmp_path: Path) -> None:
    hugging_network().save_pretrained(tmp_path)
    settings = {"size": {"height": SIZE[0], "width": SIZE[1]}, "resample": 3}
    transformers().ViTImageProcessor(**settings).save_pretrained(tmp_path)
    model = sparsevit.load_model(tmp_path)
    theirs = transformers().AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    image = picture((150, 200))
    expected = theirs(Image.fromarray(image), return_tensors="pt").pixel_values
    assert torch.allclose(model.preprocess([image]), expected, atol=1e-5)
    assert model.preprocess.mean == (0.5, 0.5, 0.5)
    sparsevit.save_model(model, tmp_path / "out" / "model.safetensors")
    again = sparsevit.load_model(tmp_path / "out" / "model.safetensors")
    assert again.preprocess == model.preprocess


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"size": 96, "feature_extractor_type": "ViTFeatureExtractor"}, ((96, 96), None)),
        ({"size": [96, 128]}, ((96, 128), None)),
        ({"do_resize": False, "size": {"height": 3, "width": 3}}, (None, None)),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
            ((224, 224), 0.875),
        ),
        (
            {"size": 64, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}},
            ((64, 64), None),
        ),
    ],
)
def test_older_ways_of_saying_a_size(tmp_path: Path, document: dict, expected: tuple) -> None:
    made = read(tmp_path, image_mean=[0.5] * 3, image_std=[0.5] * 3, **document)
    assert (made.resize, made.crop_pct) == expected


@pytest.mark.parametrize(
    ("shorter", "crop"), [(256, 224), (232, 224), (246, 224), (438, 384), (7, 7)]
)
def test_the_covering_size_survives_the_share(tmp_path: Path, shorter: int, crop: int) -> None:
    """torchvision's resize and centre crop, on whose numbers floats may fall short by a pixel."""
    transforms = import_torchvision().transforms
    made = read(
        tmp_path,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        size={"shortest_edge": shorter},
        do_center_crop=True,
        crop_size={"height": crop, "width": crop},
    )
    image = Image.fromarray(picture((300, 471)))
    expected = transforms.CenterCrop(crop)(transforms.Resize(shorter)(image))
    assert np.array_equal(made.crops(np.asarray(image))[0], np.asarray(expected))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"size": {"shortest_edge": 512, "longest_edge": 2048}}, "keeps the shape of images"),
        (
            {"size": 512, "max_size": 2048, "image_processor_type": "Mask2FormerX"},
            "keeps the shape",
        ),
        (
            {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224},
            "squeezes",
        ),
        ({"size": {"height": 64, "width": 64}, "resample": 1}, "interpolation"),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 224}, "without resizing"),
        (
            {"size": {"shortest_edge": 200}, "do_center_crop": True, "crop_size": 224},
            "shorter side is 200",
        ),
    ],
)
def test_what_cannot_be_followed_is_said(tmp_path: Path, document: dict, message: str) -> None:
    full = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | document
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(full))
    with pytest.warns(UserWarning, match=message):
        _, notes = read_preprocess(tmp_path, None, DEFAULT)
    assert message in notes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"image_mean": None},
        {"image_mean": [0.5, 0.5]},
        {"image_mean": ["a", "b", "c"]},
        {"image_mean": [float("nan")] * 3},
        {"image_std": [0, 0, 0]},
        {"rescale_factor": 0},
        {"rescale_factor": "1/255"},
        {"size": {"height": -3, "width": 5}},
        {"size": {"height": "a", "width": 5}},
        {"size": "big"},
        {"resample": []},
        {"do_center_crop": True},
    ],
)
def test_processors_that_make_no_sense_are_named(tmp_path: Path, change: dict) -> None:
    document = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 64} | change
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointMismatch, match="preprocessing makes no sense"):
        read_preprocess(tmp_path, None, DEFAULT)


TIMM = [
    {"crop_pct": 0.9, "interpolation": "bicubic"},
    {"crop_pct": 0.875, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3},
    {"crop_pct": 1.0, "crop_mode": "squash"},
    {"crop_pct": 1.0},
    {"crop_pct": None},
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", TIMM)
def test_pixels_are_those_of_timm(tmp_path: Path, change: dict, size: tuple[int, int]) -> None:
    """From the folder that timm itself writes for the hub."""
    import_torchvision()
    from timm.data import create_transform, resolve_model_data_config
    from timm.models import save_for_hf

    network = timm_network()
    network.pretrained_cfg = dict(network.pretrained_cfg) | {"input_size": (3, *SIZE)} | change
    save_for_hf(network, tmp_path, safe_serialization=True)
    model = sparsevit.load_model(tmp_path)
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    expected = transform(Image.fromarray(picture(size)))[None]
    ours = model.preprocess([picture(size)])
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("change", [{"crop_mode": "border"}, {"interpolation": "lanczos"}])
def test_what_timm_does_otherwise_is_said(tmp_path: Path, change: dict) -> None:
    config = {
        "input_size": [3, 112, 112],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
    }
    save_file(timm_network().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config | change}))
    with pytest.warns(UserWarning, match="cannot be followed exactly"):
        assert sparsevit.load_model(tmp_path).preprocess.resize == (112, 112)
    for wrong in ({"input_size": 5}, {"mean": None}, {"crop_pct": 7}):
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config | wrong}))
        with pytest.raises(CheckpointMismatch, match="makes no sense"):
            sparsevit.load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": 5}))
    with pytest.raises(CheckpointMismatch, match="makes no sense"):
        sparsevit.load_model(tmp_path)
