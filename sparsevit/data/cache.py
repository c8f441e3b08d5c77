"""A bounded memory of decoded samples: a search reads the same images in every generation."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsevit.data.base import Dataset, Progress, Sample
from sparsevit.errors import ConfigError

SETTING = "SPARSEVIT_DATA_CACHE_MB"
DEFAULT_MB = 256
MB = 2**20


class Cached:
    """A data set whose samples stay in memory, up to `size` bytes; the least recently used go first.

    Threads may read at once. A sample is shared by all who read it: nobody may change its arrays.
    """

    def __init__(self, dataset: Dataset, size: int) -> None:
        self.dataset, self.size = dataset, size
        self.used = 0  # bytes
        self._samples: OrderedDict[int, Sample] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.dataset)

    def files(self, index: int) -> tuple[Path, ...]:
        return self.dataset.files(index)

    def check(self, progress: Progress | None = None, indices: Sequence[int] | None = None) -> None:
        self.dataset.check(progress, indices)

    def sample(self, index: int) -> Sample:
        with self._lock:
            if index in self._samples:
                self._samples.move_to_end(index)
                return self._samples[index]
        sample = self.dataset.sample(index)  # outside of the lock: others read meanwhile
        with self._lock:
            self._keep(index, sample)
        return sample

    def _keep(self, index: int, sample: Sample) -> None:
        needed = sample_bytes(sample)
        if needed > self.size or index in self._samples:
            return
        while self.used + needed > self.size:
            _, oldest = self._samples.popitem(last=False)
            self.used -= sample_bytes(oldest)
        self._samples[index] = sample
        self.used += needed


def cached(dataset: Dataset) -> Dataset:
    """The data set with a cache of the size that the environment sets, or without where that is 0."""
    size = cache_bytes()
    return Cached(dataset, size) if size else dataset


def cache_bytes() -> int:
    """SPARSEVIT_DATA_CACHE_MB in bytes; 256 MB where it is not set. Raises ConfigError."""
    text = os.environ.get(SETTING, str(DEFAULT_MB))
    try:
        size = int(text)
    except ValueError:
        size = -1
    if size < 0:
        raise ConfigError(
            f"{SETTING} is {text!r}; it is a whole number of megabytes, or 0 for none."
        )
    return size * MB


def sample_bytes(value: Any) -> int:
    """Bytes of the arrays in a sample; whatever else a target holds is small."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(sample_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(sample_bytes, value))
    return 0
