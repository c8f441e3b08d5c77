"""The log of a search as columns that grow with it."""

from __future__ import annotations

import math

import numpy as np

from sparsevit.search.history import History
from sparsevit.search.moves import Evaluation


def log(start: int, end: int) -> list[Evaluation]:
    metric = [math.nan if i % 5 == 0 else i / 100 for i in range(end)]
    return [Evaluation((i % 9, 8), i // 10, metric[i], 2.0 * i) for i in range(start, end)]


def test_columns_follow_the_rows_as_they_grow():
    history = History(log(0, 25))
    assert len(history.columns.metric) == 25
    history.extend(log(25, 60))
    whole = History(log(0, 60)).columns
    for name in ("genes", "generation", "metric", "latency_ms"):
        assert np.array_equal(
            getattr(history.columns, name), getattr(whole, name), equal_nan=name == "metric"
        )
    assert history.columns.genes.tolist() == [list(e.genes) for e in history]
    assert whole.genes.dtype == np.uint8


def test_an_empty_history_has_no_columns():
    assert History().columns is None
    assert History(log(30, 40)).before(2).columns is None


def test_the_generations_before_one():
    history = History(log(0, 60))
    earlier = history.before(3)
    assert list(map(repr, earlier)) == list(map(repr, log(0, 30)))
    assert len(earlier.columns.metric) == 30
    assert history.before(6) is history


def test_a_history_of_a_history_is_itself():
    history = History(log(0, 3))
    assert History.of(history) is history
    assert History.of(history[1:])[0] is history[1]
