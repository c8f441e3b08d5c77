"""Reading ahead: samples are decoded by threads while the network computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from sparsevit.data.base import Dataset, Sample, Target

MAX_THREADS = 4
AHEAD = 2  # batches


def read_ahead(
    dataset: Dataset,
    indices: Sequence[int],
    batch: int,
    *,
    threads: int | None = None,
    ahead: int = AHEAD,
) -> Iterator[tuple[list[np.ndarray], list[Target]]]:
    """(images, targets) of the given indices, `batch` at a time, in order.

    threads: that read; None: as many as there are cores, at most 4. ahead: batches that are read
    while the last one handed out is in use, so memory is bounded whatever the data set's size.
    An error of a sample is raised when its batch is due, after all batches before it.
    """
    pool = ThreadPoolExecutor(threads or default_threads(), thread_name_prefix="read-ahead")
    try:
        pending: deque[Future[Sample]] = deque()
        rest = iter(indices)

        def fill(samples: int) -> None:
            while len(pending) < samples and (index := next(rest, None)) is not None:
                pending.append(pool.submit(dataset.sample, index))

        for start in range(0, len(indices), batch):
            fill(batch * (1 + ahead))
            due = min(batch, len(indices) - start)
            samples = [pending.popleft().result() for _ in range(due)]
            fill(batch * ahead)
            yield [sample[0] for sample in samples], [sample[1] for sample in samples]
    finally:
        pool.shutdown(cancel_futures=True)


def default_threads() -> int:
    """Threads that read where no number is given: the cores this process may use, at most 4."""
    return min(MAX_THREADS, _cores())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
