"""Sliding windows: the crops' scores together, against a plain definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sparsevit import metrics
from sparsevit.data.digits import DigitCanvases
from sparsevit.data.preprocess import Preprocess
from sparsevit.errors import ConfigError
from sparsevit.evaluate import evaluate
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.semantic import SegmentationModel
from sparsevit.tasks.sliding import joined
from sparsevit.training.digits_recipe import CANVAS

NAMES = ("a", "b", "c", "d")
CROP = (56, 84)
# A multiple of the step; no multiple; lower, narrower, and both than a crop; exactly one.
SIZES = [(112, 168), (97, 131), (40, 131), (97, 60), (30, 31), CROP]


def model(slide: float | None = 2 / 3) -> SegmentationModel:
    torch.manual_seed(0)
    backbone = SparseSwin(SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2)))
    preprocess = Preprocess(resize=CROP, slide=slide)
    return SegmentationModel(backbone, NAMES, preprocess=preprocess).eval()


def images(sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def labels(sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.integers(0, len(NAMES), size, dtype=np.uint8) for size in sizes]


def by_definition(segmenter: SegmentationModel, image: np.ndarray) -> np.ndarray:
    """Every crop by itself; each pixel's logits averaged, one pixel at a time."""
    height, width = image.shape[:2]
    sums = np.zeros((len(NAMES), height, width))
    counts = np.zeros((height, width))
    corners = segmenter.preprocess.corners(height, width)
    for (top, left), crop in zip(corners, segmenter.preprocess.crops(image), strict=True):
        x = segmenter.preprocess._normalised(crop)[None]
        with torch.no_grad():
            logits = F.interpolate(segmenter(x), size=CROP, mode="bilinear")[0].double().numpy()
        for row in range(top, min(top + CROP[0], height)):
            for col in range(left, min(left + CROP[1], width)):
                sums[:, row, col] += logits[:, row - top, col - left]
                counts[row, col] += 1
    assert counts.min() >= 1
    return (sums / counts).argmax(0)


def test_predictions_are_those_of_the_definition() -> None:
    """All images in one batch, of different sizes and so of different numbers of crops."""
    segmenter, pictures, truth = model(), images(SIZES), labels(SIZES)
    with torch.no_grad():
        outputs = segmenter(segmenter.preprocess(pictures))
    for picture, label, state in zip(
        pictures, truth, segmenter.states(outputs, truth), strict=True
    ):
        predicted = by_definition(segmenter, picture)
        expected = [
            [int(((label == c) & (predicted == c)).sum()) for c in range(len(NAMES))],
            [int((label == c).sum()) for c in range(len(NAMES))],
            [int((predicted == c).sum()) for c in range(len(NAMES))],
        ]
        assert state == expected


def test_a_whole_image_in_one_crop_is_the_image_resized_to_itself() -> None:
    picture, label = images([CROP]), labels([CROP])
    states = []
    for slide in (None, 0.5):
        segmenter = model(slide)
        with torch.no_grad():
            states.append(segmenter.states(segmenter(segmenter.preprocess(picture)), label))
    assert states[0] == states[1]


class InMemory:
    def __len__(self) -> int:
        return len(SIZES)

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return images(SIZES)[index], labels(SIZES)[index]

    def files(self, index: int) -> tuple:
        return ()

    def check(self, progress=None, indices=None) -> None:
        pass


def test_the_evaluator_slides_too() -> None:
    segmenter, data = model(), InMemory()
    dense, sparse = [(0, 0), (8, 8)]
    most: list[int] = []
    segmenter.backbone.patch_embed.register_forward_pre_hook(lambda _, x: most.append(len(x[0])))
    found = evaluate(segmenter, [dense, sparse], "l2", data, range(len(SIZES)), batch=4)
    # However many images a batch has: one image's crops are a forward.
    assert most == [len(segmenter.preprocess.corners(*size)) for size in SIZES]
    alone = evaluate(segmenter, [dense], "l2", data, range(len(SIZES)), batch=1)
    values = [metrics.merge(states, segmenter.metric) for states in (*found, *alone)]
    assert values[0] == values[2] != values[1]
    assert sum(values[0][1]) == sum(rows * cols for rows, cols in SIZES)


def test_labels_of_another_size_than_the_image_are_refused() -> None:
    segmenter = model()
    with torch.no_grad():
        outputs = segmenter(segmenter.preprocess(images([(112, 168)])))
    with pytest.raises(ConfigError, match="labels must have their image's size"):
        segmenter.states(outputs, labels([(28, 42)]))


def test_coarser_labels_are_refused_where_one_crop_covers_the_image(tiny_model) -> None:
    """The number of crops is right then, and every prediction would be elsewhere."""
    tiny_model.preprocess = replace(tiny_model.preprocess, resize=(CANVAS, CANVAS), slide=0.5)
    with pytest.raises(ConfigError, match=f"the labels are 112 x 112, their image is {CANVAS}"):
        evaluate(tiny_model, [(0, 0, 0)], "l2", DigitCanvases("search", 1), [0])


def test_parts_cut_away_are_refused() -> None:
    segmenter = model(None)
    segmenter.preprocess = Preprocess(resize=CROP, crop_pct=0.9)
    with pytest.raises(ConfigError, match="crop_pct must be null"):
        segmenter.states(torch.zeros(1, 4, 14, 21), labels([CROP]))


def test_crops_that_leave_a_gap_are_no_image() -> None:
    crop = torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match="do not cover"):
        joined([((0, 0), crop), ((0, 5), crop)], (4, 9))
    with pytest.raises(ValueError, match="do not cover"):
        joined([], (4, 9))
    assert torch.equal(
        joined([((0, 0), crop), ((0, 3), 3 * crop)], (3, 7))[0, 0],
        torch.tensor([1.0, 1, 1, 2, 3, 3, 3]),
    )
