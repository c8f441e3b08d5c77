from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsevit.data.base import batches
from sparsevit.data.digits import DigitCanvases
from sparsevit.data.loading import default_threads, read_ahead
from sparsevit.errors import DatasetError
from sparsevit.evaluate import evaluate, run_trie
from sparsevit.metrics import merge
from sparsevit.sparsity.score import get_score


class Counting:
    """Samples that say which index they are of; later ones may be ready first."""

    def __init__(self, length: int, fails: tuple[int, ...] = ()) -> None:
        self.length, self.fails = length, fails
        self.started: list[int] = []
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int) -> tuple[np.ndarray, int]:
        with self.lock:
            self.started.append(index)
        time.sleep(0.002 * (index % 3))
        if index in self.fails:
            raise DatasetError(f"image {index} is broken")
        return np.full((1, 1, 3), index, np.uint8), index

    def files(self, index: int) -> tuple[Path, ...]:
        return ()


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize(("length", "batch"), [(0, 4), (1, 4), (8, 4), (23, 5)])
def test_batches_come_in_order(threads: int, length: int, batch: int) -> None:
    indices = [(7 * i) % 23 for i in range(length)]
    found = [*read_ahead(Counting(23), indices, batch, threads=threads)]
    assert [target for _, targets in found for target in targets] == indices
    assert [image[0, 0, 0] for images, _ in found for image in images] == indices
    assert [len(targets) for _, targets in found] == [
        len(indices[i : i + batch]) for i in range(0, length, batch)
    ]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_is_read_than_was_asked_for_ahead(ahead: int) -> None:
    data = Counting(1000)
    stream = read_ahead(data, range(1000), 4, threads=3, ahead=ahead)
    for taken in range(1, 4):
        next(stream)
        time.sleep(0.1)
        assert len(data.started) == 4 * (taken + ahead)
    stream.close()
    assert len(data.started) == 4 * (3 + ahead)


def test_an_error_comes_when_its_batch_is_due() -> None:
    data = Counting(40, fails=(9, 10, 30))
    stream = read_ahead(data, range(40), 4, threads=4)
    assert [next(stream)[1] for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(DatasetError, match="image 9 is broken"):
        next(stream)
    assert len(data.started) < 40  # what was not begun was given up
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


def test_reading_happens_while_the_batch_is_in_use() -> None:
    data = Counting(20)
    stream = read_ahead(data, range(20), 2, threads=2)
    next(stream)
    time.sleep(0.1)
    assert {*data.started} == {*range(6)}
    stream.close()


def test_threads_are_few() -> None:
    assert 1 <= default_threads() <= 4


@pytest.mark.parametrize("threads", [1, 3])
def test_digits_drawn_by_threads_are_the_same_pixels(threads: int) -> None:
    data = DigitCanvases("search", 6, 224)
    plain = [*batches(data, range(6), 4)]
    ahead = [*read_ahead(data, range(6), 4, threads=threads)]
    for one, other in zip(plain, ahead, strict=True):
        for a, b in zip([*one[0], *one[1]], [*other[0], *other[1]], strict=True):
            assert np.array_equal(a, b)


def test_an_evaluation_is_bit_identical_to_reading_in_turn(tiny_model) -> None:
    data, candidates = DigitCanvases("search", 5, 112), [(0, 0, 0), (3, 0, 5)]
    found = evaluate(tiny_model, candidates, "variance", data, range(5), batch=2)
    expected: list[list] = [[], []]
    with torch.inference_mode():
        for images, targets in batches(data, range(5), 2):
            x = tiny_model.preprocess(images)
            for members, outputs in run_trie(tiny_model, candidates, get_score("variance"), x):
                for member in members:
                    states = tiny_model.states(outputs, targets)
                    expected[member].append(merge(states, tiny_model.metric))
    assert found == expected
