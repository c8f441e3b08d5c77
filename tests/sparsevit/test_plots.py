"""The plots draw, say what they should, and refuse what does not fit together."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sparsevit.plots import pareto_png, residuals_png, window_map_png

POINTS = [(20.0, 55.0), (25.0, 58.0), (30.0, 57.0), (40.0, 60.0)]
FRONT = [(40.0, 60.0), (20.0, 55.0), (25.0, 58.0)]


def opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def has_colour(pixels: np.ndarray, colour: str) -> bool:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(pixels - rgb).sum(axis=-1) < 12).any())


def test_the_pareto_plot_shows_budget_winner_and_uniform():
    with_all = opened(pareto_png(POINTS, FRONT, (50, 61), 33, (25, 58), [(28, 56)], "mIoU"))
    assert all(has_colour(with_all, colour) for colour in ("#D55E00", "#009E73", "#E69F00"))
    without = opened(pareto_png(POINTS, FRONT, (50, 61), 33, None, [], "mIoU"))
    assert not any(has_colour(without, colour) for colour in ("#D55E00", "#009E73"))


def test_the_pareto_plot_draws_nothing_evaluated_too():
    assert opened(pareto_png([], [], (50, 61), 33, None, [], "mIoU")).size


def test_the_same_plot_gives_the_same_bytes():
    first, second = (
        pareto_png(POINTS, FRONT, (50, 61), 33, (25, 58), [], "mIoU") for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 64), (2, 32, 88)])
def test_the_window_map_draws_any_number_of_images(shape):
    images = np.full((*shape, 3), 200, np.uint8)
    counts = np.arange(shape[0] * 16).reshape(shape[0], 4, 4) % 11
    assert opened(window_map_png(images, counts, 10, "windows")).std() > 0


def test_the_window_map_colours_windows_by_their_count():
    images = np.full((1, 64, 64, 3), 255, np.uint8)
    counts = np.zeros((1, 8, 8), int)
    none = opened(window_map_png(images, counts, 10, ""))
    all_layers = opened(window_map_png(images, counts + 10, 10, ""))
    # Most of the map's half of the picture changes from dark to light.
    half = slice(none.shape[1] * 50 // 100, none.shape[1] * 80 // 100)
    assert all_layers[:, half].mean() > none[:, half].mean() + 30


@pytest.mark.parametrize(
    ("images", "counts"),
    [
        (np.zeros((2, 8, 8)), np.zeros((2, 2, 2))),
        (np.zeros((0, 8, 8, 3)), np.zeros((0, 2, 2))),
        (np.zeros((2, 8, 8, 3)), np.zeros((1, 2, 2))),
        (np.zeros((2, 8, 8, 3)), np.zeros((2, 4))),
    ],
)
def test_shapes_that_do_not_fit_are_refused(images, counts):
    with pytest.raises(ValueError, match=r"\[n"):
        window_map_png(images.astype(np.uint8), counts, 10, "")


def test_the_residual_plot_shows_every_config_and_the_noise():
    pixels = opened(residuals_png([10, 20, 31], [10, 21, 30], 0.01, "off by 2%"))
    assert has_colour(pixels, "#0072B2")
    assert residuals_png([10.0], [10.0], 0.0, "") == residuals_png(
        [10.0], [10.0], 0.0, ""
    )  # one config is enough
    with pytest.raises(ValueError, match="one each"):
        residuals_png([1.0, 2.0], [1.0], 0.01, "")
