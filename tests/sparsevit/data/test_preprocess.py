"""Preprocessing gives what the libraries that trained the checkpoints give, on Pillow images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sparsevit.data.preprocess import INTERPOLATIONS, Preprocess
from sparsevit.errors import ConfigError

SIZES = [(375, 500), (500, 375), (224, 224), (249, 248), (97, 333), (60, 41), (480, 640)]
ROUNDING = 1e-6  # of fp32 arithmetic in another order; one step of 8 bits would be 4e-3


def picture(height: int, width: int) -> np.ndarray:
    """Smooth shapes under noise: every interpolation then gives pixels of its own."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    waves = 90 * np.stack([np.sin(y / 9), np.cos(x / 7), np.sin((x + y) / 11)], axis=-1)
    return (128 + waves + rng.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= ROUNDING


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
def test_timms_evaluation_transform(size: tuple[int, int], crop_pct: float) -> None:
    from timm.data import create_transform

    stock = create_transform(224, interpolation="bicubic", crop_pct=crop_pct, crop_mode="center")
    ours = Preprocess(resize=(224, 224), interpolation="bicubic", crop_pct=crop_pct)
    image = picture(*size)
    assert_same(ours([image])[0], stock(Image.fromarray(image)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(232, 224), (246, 224), (256, 256), (64, 56)])
def test_torchvisions_resize_and_crop(size: tuple[int, int], resize: int, crop: int) -> None:
    from torchvision import transforms as stock

    pipeline = stock.Compose(
        [
            stock.Resize(resize, stock.InterpolationMode.BILINEAR),
            stock.CenterCrop(crop),
            stock.ToTensor(),
            stock.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    image = picture(*size)
    ours = Preprocess(resize=(crop, crop), crop_pct=crop / resize)
    assert_same(ours([image])[0], pipeline(Image.fromarray(image)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", [(224, 224), (96, 160)])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_huggingfaces_resize_to_size(
    size: tuple[int, int], resize: tuple[int, int], interpolation: str
) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    processor = ViTImageProcessorPil(
        size={"height": resize[0], "width": resize[1]},
        resample=Image.Resampling[interpolation.upper()],
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    image = picture(*size)
    stock = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    assert_same(Preprocess(resize=resize, interpolation=interpolation)([image]), stock)


def test_channels_are_turned_before_they_are_normalised() -> None:
    image, mean, std = picture(20, 30), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    turned = np.ascontiguousarray(image[..., ::-1])
    bgr = Preprocess(mean, std, channels="bgr")([image])
    assert torch.equal(bgr, Preprocess(mean, std)([turned]))
    assert not torch.equal(bgr, Preprocess(mean, std)([image]))


def test_images_of_the_right_size_stay_as_they_are() -> None:
    image = picture(64, 96)
    plain = Preprocess()([image])
    assert torch.equal(plain, Preprocess(resize=(64, 96))([image]))
    expected = (torch.from_numpy(image).permute(2, 0, 1).double() / 255 - 0.485) / 0.229
    assert (plain[0, 0] - expected[0]).abs().max() < ROUNDING


@pytest.mark.parametrize("size", [(100, 230), (64, 96), (65, 97), (300, 96), (30, 500), (20, 20)])
@pytest.mark.parametrize("slide", [1.0, 0.75, 0.5, 0.33])
def test_sliding_crops_cover_every_pixel(size: tuple[int, int], slide: float) -> None:
    preprocess, (height, width) = Preprocess(resize=(64, 96), slide=slide), size
    corners = preprocess.corners(height, width)
    seen = np.zeros(size, int)
    for top, left in corners:
        seen[top : top + 64, left : left + 96] += 1
        assert 0 <= top <= max(0, height - 64)
        assert 0 <= left <= max(0, width - 96)
    assert seen.min() >= 1
    assert corners == sorted(set(corners))  # row by row, none twice
    assert corners[0] == (0, 0)
    assert corners[-1] == (max(0, height - 64), max(0, width - 96))  # ends with the image
    tops = sorted({top for top, _ in corners})
    assert all(below - top <= round(slide * 64) for top, below in pairwise(tops))


def test_a_crop_is_that_part_of_the_image() -> None:
    image = picture(100, 230)
    preprocess = Preprocess(resize=(64, 96), slide=0.5)
    crops, corners = preprocess.crops(image), preprocess.corners(100, 230)
    assert len(crops) == len(corners) == 3 * 4
    for crop, (top, left) in zip(crops, corners, strict=True):
        assert np.array_equal(crop, image[top : top + 64, left : left + 96])


def test_a_small_image_is_filled_up_by_its_last_pixels() -> None:
    image = picture(50, 230)
    crops = Preprocess(resize=(64, 96), slide=1.0).crops(image)
    assert [crop.shape for crop in crops] == [(64, 96, 3)] * 3
    for crop, left in zip(crops, (0, 96, 134), strict=True):
        assert np.array_equal(crop[:50], image[:, left : left + 96])
        assert (crop[50:] == image[49, left : left + 96]).all()


def test_crops_of_all_images_come_in_turn() -> None:
    images = [picture(64, 96), picture(64, 150), picture(100, 96)]
    preprocess = Preprocess(resize=(64, 96), slide=0.5)
    together = preprocess(images)
    assert together.shape == (1 + 3 + 3, 3, 64, 96)
    assert torch.equal(together, torch.cat([preprocess([image]) for image in images]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": "gbr"},
        {"interpolation": "lanczos"},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (0.5,)},
        {"crop_pct": 1.5},
        {"slide": 0.0},
        {"slide": 0.5, "crop_pct": 0.9},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="preprocess"):
        Preprocess(**wrong)


def test_it_is_the_same_after_a_file() -> None:
    preprocess = Preprocess(resize=(224, 192), interpolation="bicubic", crop_pct=0.9)
    assert Preprocess().updated(preprocess.to_dict()) == preprocess
    assert preprocess.updated({"crop_pct": None, "slide": None}) == preprocess


def test_the_way_that_is_asked_for_replaces_the_checkpoints() -> None:
    cut, slid = (
        Preprocess(resize=(224, 224), **way) for way in ({"crop_pct": 0.9}, {"slide": 0.5})
    )
    assert cut.updated({"slide": 0.5}) == cut.updated(slid.to_dict()) == slid
    assert slid.updated({"crop_pct": 0.9}) == slid.updated(cut.to_dict()) == cut
    with pytest.raises(ConfigError, match="one of crop_pct and slide"):
        cut.updated({"crop_pct": 0.8, "slide": 0.5})
