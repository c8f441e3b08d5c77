from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sparsevit.data.cache import MB, Cached, cache_bytes, cached, sample_bytes
from sparsevit.data.digits import DigitCanvases
from sparsevit.errors import ConfigError
from sparsevit.search.steps import Session

SAMPLE = 10 * 10 * 3 + 25  # bytes


class Reads:
    """Counts how often each sample was read."""

    def __init__(self) -> None:
        self.reads: Counter[int] = Counter()

    def __len__(self) -> int:
        return 100

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.reads[index] += 1
        return np.full((10, 10, 3), index, np.uint8), np.full((5, 5), index, np.uint8)

    def files(self, index: int) -> tuple[Path, ...]:
        return (Path(str(index)),)


def test_a_hit_does_not_read_again() -> None:
    data = Reads()
    cache = Cached(data, 1000 * SAMPLE)
    for _ in range(3):
        for index in range(100):
            image, labels = cache.sample(index)
            assert (image == index).all()
            assert (labels == index).all()
    assert set(data.reads.values()) == {1}
    assert len(cache) == 100
    assert cache.files(3) == (Path("3"),)


def test_memory_is_bounded_by_the_bytes_of_the_samples() -> None:
    cache = Cached(Reads(), 10 * SAMPLE + 1)
    for index in [*range(100), *range(50)]:
        cache.sample(index)
        held = sum(sample_bytes(sample) for sample in cache._samples.values())
        assert held == cache.used <= cache.size
    assert cache.used == 10 * SAMPLE


def test_the_least_recently_used_goes_first() -> None:
    data = Reads()
    cache = Cached(data, 3 * SAMPLE)
    for index in (0, 1, 2, 0, 3, 0, 2, 1):
        cache.sample(index)
    assert data.reads == {0: 1, 1: 2, 2: 1, 3: 1}


def test_a_sample_larger_than_the_cache_is_read_each_time() -> None:
    data = Reads()
    cache = Cached(data, SAMPLE - 1)
    for _ in range(2):
        cache.sample(0)
    assert (data.reads[0], cache.used) == (2, 0)


def test_threads_may_read_at_once() -> None:
    cache = Cached(Reads(), 20 * SAMPLE)
    order = np.random.default_rng(0).integers(0, 100, 4000).tolist()
    with ThreadPoolExecutor(8) as pool:
        for index, (image, labels) in zip(order, pool.map(cache.sample, order), strict=True):
            assert (image == index).all()
            assert (labels == index).all()
    assert cache.used == sum(map(sample_bytes, cache._samples.values())) <= cache.size


def test_bytes_of_nested_targets_count() -> None:
    box = np.zeros((4, 4), np.float32)
    assert sample_bytes((box, {"boxes": [box, box], "label": 3})) == 3 * 64


def test_the_environment_sets_the_size(monkeypatch) -> None:
    data = Reads()
    monkeypatch.delenv("SPARSEVIT_DATA_CACHE_MB", raising=False)
    assert cache_bytes() == 256 * MB
    monkeypatch.setenv("SPARSEVIT_DATA_CACHE_MB", "7")
    assert cached(data).size == 7 * MB
    monkeypatch.setenv("SPARSEVIT_DATA_CACHE_MB", "0")
    assert cached(data) is data
    for wrong in ("-1", "many", "1.5", ""):
        monkeypatch.setenv("SPARSEVIT_DATA_CACHE_MB", wrong)
        with pytest.raises(ConfigError, match="whole number of megabytes"):
            cached(data)


def test_a_search_draws_each_canvas_once(tiny_model, monkeypatch) -> None:
    drawn: Counter[tuple[str, int]] = Counter()
    draw = DigitCanvases.sample

    def counting(self: DigitCanvases, index: int):
        drawn[self.split, index] += 1
        return draw(self, index)

    monkeypatch.setattr(DigitCanvases, "sample", counting)
    session = Session(
        tiny_model, {"path": "builtin:digits", "limit": 2}, input={"height": 112, "width": 112}
    )
    first, second = (session.evaluate([(0, 0, 0)], 0, 1)["states"] for _ in range(2))
    assert first == second
    assert drawn == {("search", 0): 1, ("search", 1): 1}
