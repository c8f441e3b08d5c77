from __future__ import annotations

import numpy as np
import pytest

from sparsevit.data.augment import (
    classification_sample,
    flipped,
    random_resized_crop,
    resized,
    scaled_crop,
    segmentation_sample,
)
from sparsevit.data.preprocess import Preprocess

RNG = np.random.default_rng


def ramp(height: int = 60, width: int = 80) -> np.ndarray:
    """An image whose red is its row and whose green is its column."""
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows, cols, np.full_like(rows, 9)], -1).astype(np.uint8)


def test_resizing_takes_labels_along_at_their_share() -> None:
    image, labels = resized(ramp(), np.arange(300, dtype=np.uint16).reshape(15, 20) % 7, (40, 64))
    assert image.shape == (40, 64, 3)
    assert labels.shape == (10, 16)
    assert labels.max() <= 6
    assert resized(ramp(), 4, (40, 64))[1] == 4
    same, _ = resized(image, labels, (40, 64))
    assert same is image


def test_random_parts_have_the_areas_and_shapes_that_are_asked_for() -> None:
    image, areas, shapes = ramp(200, 250), [], []
    for seed in range(300):
        cut = random_resized_crop(image, (32, 32), RNG(seed)).astype(float)
        assert cut.shape == (32, 32, 3)
        rows = (cut[-1, 0, 0] - cut[0, 0, 0]) * 32 / 31
        cols = (cut[0, -1, 1] - cut[0, 0, 1]) * 32 / 31
        areas.append(rows * cols / (200 * 250))
        shapes.append(cols / rows)
    assert 0.06 < min(areas) < 0.12
    assert 0.85 < max(areas) <= 1.1
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)
    assert min(shapes) > 0.65
    assert max(shapes) < 1.5


def test_an_image_too_long_for_any_draw_gives_its_middle() -> None:
    image = ramp(10, 250)
    cut = random_resized_crop(image, (10, 13), RNG(0), scale=(0.9, 1.0))
    assert cut.shape == (10, 13, 3)
    assert cut[0, 0, 1] == pytest.approx(118, abs=3)


def test_image_and_labels_of_a_random_part_stay_together() -> None:
    """Labels that are the image's columns: after any scale and flip they are still."""
    image = ramp()
    labels = image[..., 1].copy()
    for seed in range(50):
        part, found = segmentation_sample(image, labels, Preprocess(), (48, 48), RNG(seed))
        assert part.shape == (48, 48, 3)
        inside = found != 255
        assert np.abs(part[..., 1].astype(int) - found)[inside].max() <= 2
        assert (part[~inside] == (124, 116, 104)).all()  # ImageNet's mean


def test_what_reaches_beyond_the_image_is_filled() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    part, labels = scaled_crop(
        image, np.ones((20, 20), np.uint8), (20, 20), (40, 50), RNG(0), (1, 2, 3), (0.5, 0.5)
    )
    assert part.shape == (40, 50, 3)
    assert (labels[:10, :10] == 1).all()
    assert (labels == 255).sum() == 40 * 50 - 100
    assert (part[labels == 255] == (1, 2, 3)).all()


def test_scales_are_relative_to_the_size_of_evaluation() -> None:
    """With every image evaluated at half its size, training sees it at .25 to 1 of its own."""
    image = ramp(120, 160)
    labels = np.zeros((120, 160), np.uint8)
    steps = []
    for seed in range(100):
        part, found = segmentation_sample(
            image, labels, Preprocess(resize=(60, 80)), (30, 30), RNG(seed)
        )
        assert (found == 0).all()
        steps.append(abs(float(part[0, -1, 1]) - float(part[0, 0, 1])) / 29)
    assert min(steps) == pytest.approx(1, abs=0.1)
    assert max(steps) == pytest.approx(4, abs=0.4)


def test_without_chance_a_classifier_trains_on_what_it_is_evaluated_on() -> None:
    preprocess = Preprocess(resize=(32, 32), crop_pct=0.8)
    image = ramp()
    expected = preprocess.crops(image)[0]
    assert np.array_equal(classification_sample(image, preprocess, (32, 32), None), expected)
    assert classification_sample(image, preprocess, (24, 28), RNG(1)).shape == (24, 28, 3)


def test_half_of_all_images_are_mirrored() -> None:
    image = ramp(4, 6)
    mirrored = [flipped(image, image[..., 1], RNG(seed)) for seed in range(200)]
    assert 70 < sum(np.array_equal(x, image[:, ::-1]) for x, _ in mirrored) < 130
    assert all(np.array_equal(x[..., 1], labels) for x, labels in mirrored)
