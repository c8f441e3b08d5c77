from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sparsevit.data.digits import SPLITS, DigitCanvases, _photographs
from sparsevit.errors import DatasetError


def test_a_canvas_is_a_function_of_split_and_index() -> None:
    few, many = DigitCanvases("search", 4), DigitCanvases("search", 100)
    for index in (0, 3):
        for a, b in zip(few.sample(index), many.sample(index), strict=True):
            assert np.array_equal(a, b)
    assert not np.array_equal(few.sample(0)[0], few.sample(2)[0])


def test_labels_lie_where_the_digits_are() -> None:
    image, labels = DigitCanvases("search", 2).sample(0)
    assert image.shape == (448, 448, 3)
    assert image.dtype == np.uint8
    assert labels.shape == (112, 112)
    assert 0 < (labels > 0).mean() < 0.05  # mostly empty: that is the point of the set
    assert labels.max() <= 10


def test_splits_share_neither_glyphs_nor_background_pixels() -> None:
    glyphs = [set(range(*digits)) for _, digits, _ in SPLITS.values()]
    assert len(set.union(*glyphs)) == sum(map(len, glyphs)) == 1797
    bands = sorted(band for band, _, _ in SPLITS.values())
    assert all(a[1] <= b[0] for a, b in pairwise(bands))


def test_half_of_the_backgrounds_are_photographs() -> None:
    data = DigitCanvases("report", 8)
    assert len(_photographs("report")) == 16
    # Neighbouring pixels of the smooth backgrounds are independent noise in every channel; grey
    # and coloured photographs differ between channels far less than the smooth ones do.
    spread = [np.std(data.sample(i)[0].astype(float).std(axis=2)) for i in range(8)]
    assert np.mean(spread[0::2]) > np.mean(spread[1::2])


def test_packed_canvases_hold_many_digits() -> None:
    packed = DigitCanvases("train", 1, 224, packed=True).sample(0)[1]
    sparse = DigitCanvases("train", 1, 448).sample(0)[1]
    assert (packed > 0).mean() > 5 * (sparse > 0).mean()


def test_unknown_splits_are_named() -> None:
    with pytest.raises(DatasetError, match="train, search, report"):
        DigitCanvases("test")
