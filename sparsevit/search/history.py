"""History: the log of a search, as rows and as columns.

Proposals look at every evaluation there is. Columns that grow with the log keep that at a few
milliseconds for 100,000 evaluations. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from sparsevit.search.moves import Evaluation


@dataclass(frozen=True)
class Columns:
    """genes: uint8 [n, genes]. generation: int64 [n]. metric (NaN: none), latency_ms: float64 [n]."""

    genes: np.ndarray
    generation: np.ndarray
    metric: np.ndarray
    latency_ms: np.ndarray

    def where(self, rows: np.ndarray) -> Columns:
        """These rows alone: indices, or a mask."""
        return Columns(*(column[rows] for column in self._all()))

    def followed_by(self, other: Columns) -> Columns:
        return Columns(
            *(np.concatenate(both) for both in zip(self._all(), other._all(), strict=True))
        )

    def _all(self) -> tuple[np.ndarray, ...]:
        return self.genes, self.generation, self.metric, self.latency_ms


class History(Sequence["Evaluation"]):
    """Ended evaluations in the order of their proposal. It only grows, by `extend`."""

    def __init__(self, evaluations: Iterable[Evaluation] = ()) -> None:
        self._rows = list(evaluations)
        self._columns: Columns | None = None

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> History:
        """Any sequence of evaluations as a History; a History is itself."""
        return evaluations if isinstance(evaluations, cls) else cls(evaluations)

    def extend(self, evaluations: Iterable[Evaluation]) -> None:
        self._rows.extend(evaluations)

    @property
    def columns(self) -> Columns | None:
        """All rows as columns; None where there is no row. Only what is new is converted."""
        known = 0 if self._columns is None else len(self._columns.metric)
        if known < len(self._rows):
            new = _columns(self._rows[known:])
            self._columns = new if self._columns is None else self._columns.followed_by(new)
        return self._columns

    @property
    def scored(self) -> Columns:
        """The rows that have a metric; there must be rows."""
        columns = self.columns
        assert columns is not None
        return columns.where(np.isfinite(columns.metric))

    def before(self, generation: int) -> History:
        """The evaluations of the generations before that one."""
        columns = self.columns
        if columns is None or (earlier := columns.generation < generation).all():
            return self
        part = History(self._rows[i] for i in np.flatnonzero(earlier).tolist())
        part._columns = columns.where(earlier) if len(part) else None
        return part

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Evaluation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Evaluation]: ...
    def __getitem__(self, index: int | slice) -> Evaluation | list[Evaluation]:
        return self._rows[index]


def _columns(rows: Sequence[Evaluation]) -> Columns:
    # Joined bytes: an array made of many tuples takes several times as long.
    genes = np.frombuffer(b"".join(bytes(row.genes) for row in rows), np.uint8)
    return Columns(
        genes.reshape(len(rows), -1),
        np.array([row.generation for row in rows], np.int64),
        np.array([row.metric for row in rows], np.float64),
        np.array([row.latency_ms for row in rows], np.float64),
    )
