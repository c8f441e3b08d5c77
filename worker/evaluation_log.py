"""A job's evaluations, and what a step looks at of all of them, which grows with the log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from service.domain.records import Evaluation
from service.domain.status import EvaluationState
from sparsevit.search.history import History
from sparsevit.search.moves import Dropped
from sparsevit.search.moves import Evaluation as Ended


@dataclass
class Totals:
    """Counters of some evaluations. best: (metric, -latency in ms) of the best. since, until: when
    the first was proposed and the last one ended."""

    count: Counter[EvaluationState] = field(default_factory=Counter)
    best: tuple[float, float] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def add(self, rows: Iterable[Evaluation]) -> Totals:
        for row in rows:
            self.end(row.state, row.metric, row.latency_ms)
            self.since = min(self.since or row.created_at, row.created_at)
            if row.finished_at is not None:
                self.until = max(self.until or row.finished_at, row.finished_at)
        return self

    def end(self, state: EvaluationState, metric: float | None, latency_ms: float) -> None:
        """One more, in that state."""
        self.count[state] += 1
        if state == EvaluationState.DONE and metric is not None:
            found = (metric, -latency_ms)
            self.best = found if self.best is None else max(self.best, found)

    @property
    def ended(self) -> int:
        return self.count.total() - self.count[EvaluationState.PENDING]

    def copy(self) -> Totals:
        return Totals(self.count.copy(), self.best, self.since, self.until)


class EvaluationLog:
    """Evaluations in the order of their proposal, at one input after another.

    Those before the first pending one are settled: they have ended and never change, so what is
    known of them is worked out once. The others are looked at anew; see `follow`.
    """

    def __init__(self, rows: Iterable[Evaluation] = ()) -> None:
        self._rows: list[Evaluation] = []
        self._settled = 0
        self._totals = Totals()
        self._histories: dict[int, History] = {}
        self._generations: dict[int, int] = {}
        self.follow(sorted(rows, key=lambda row: (*_place(row), row.position)))

    @classmethod
    def of(cls, rows: Iterable[Evaluation]) -> EvaluationLog:
        """Rows in any order as a log; a log is itself."""
        return rows if isinstance(rows, cls) else cls(rows)

    def follow(self, rows: Iterable[Evaluation]) -> None:
        """Takes these rows, in order, for all that comes after the settled ones."""
        self._rows[self._settled :] = rows
        for row in self.open:
            self._generations[row.resolution] = row.generation + 1
        new: list[Evaluation] = []
        for row in self.open:
            if row.state == EvaluationState.PENDING:
                break
            new.append(row)
        self._settled += len(new)
        self._totals.add(new)
        for resolution in {row.resolution for row in new}:
            here = (_ended(row) for row in new if row.resolution == resolution)
            self._histories.setdefault(resolution, History()).extend(here)

    @property
    def last_settled(self) -> Evaluation | None:
        return self._rows[self._settled - 1] if self._settled else None

    @property
    def open(self) -> list[Evaluation]:
        """The first pending one and all after it."""
        return self._rows[self._settled :]

    @property
    def newest(self) -> list[Evaluation]:
        """Those of the last generation."""
        first = len(self._rows)
        while first and _place(self._rows[first - 1]) == _place(self._rows[-1]):
            first -= 1
        return self._rows[first:]

    def history(self, resolution: int) -> History:
        """What the strategies look at: the settled ones at an input."""
        return self._histories.setdefault(resolution, History())

    def generations(self, resolution: int) -> int:
        """How many were proposed at an input."""
        return self._generations.get(resolution, 0)

    def totals(self) -> Totals:
        """Of all; the caller's own."""
        return self._totals.copy().add(self.open)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self._rows)


def _place(row: Evaluation) -> tuple[int, int]:
    return row.resolution, row.generation


def _ended(row: Evaluation) -> Ended:
    genes, dropped = tuple(row.genes), None
    if row.state == EvaluationState.DROPPED:
        low, high = row.metric_interval or (0.0, 1.0)
        dropped = Dropped(row.metric or 0.0, (low, high), row.images or 0)
    done = row.state == EvaluationState.DONE and row.metric is not None
    metric = row.metric if done else math.nan
    return Ended(genes, row.generation, metric, row.latency_ms, dropped)
