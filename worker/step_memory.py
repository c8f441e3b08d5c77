"""What a process remembers between the steps of a job: rows that cannot change any more.

A step looks at all that a job has found; read anew for each, the search of n candidates would read
n rows n times. Ended evaluations and done units never change, so they are read once. Nothing is
decided by what is remembered: a process that has just started reads everything, and decides the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from sqlalchemy.orm import Session

from service.db.evaluations import EvaluationRepository
from service.db.units import UnitRepository
from service.domain.records import Ending, Job, Unit
from service.domain.status import UnitKind
from sparsevit import metrics
from sparsevit.search.racing import Folds
from worker.evaluation_log import EvaluationLog

MOST_JOBS = 32
"""Of how many jobs rows are remembered: jobs take turns, and one that is forgotten between two of its
steps is read anew in each. Those of a search of 3,000 candidates take about 3 MB."""

MOST_BYTES = 2**28
"""Of metric states, of all jobs but the one stepped last."""

MOST_RIVALS = 100
"""Whose folds are remembered, beside those that pending evaluations race against."""


class JobMemory:
    """Of one job. Its steps are one at a time, in whatever process: they hold the lock of its row."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._log = EvaluationLog()
        self._place = (0, 0)
        self._done: dict[int, Unit] = {}
        self._folds: dict[int, np.ndarray] = {}
        self.bytes = 0
        """What the remembered states take: counted in the job's own steps, read by those of others."""

    def evaluations(self, session: Session) -> EvaluationLog:
        """All of the job, as they are now."""
        found = EvaluationRepository(session).for_job(self._job_id, after=self._log.last_settled)
        self._log.follow(found)
        return self._log

    def units(self, session: Session, job: Job, generation: int, resolution: int) -> list[Unit]:
        """Those of one generation, as they are now."""
        if self._place != (resolution, generation):
            self._place, self._done = (resolution, generation), {}
        found = UnitRepository(session).for_job(
            self._job_id, generation=generation, resolution=resolution, but=[*self._done]
        )
        found = [_with_joined_states(unit, job) for unit in found]
        units = sorted([*self._done.values(), *found], key=lambda unit: (unit.shard, unit.id))
        self._done |= {unit.id: unit for unit in found if _is_counts(unit)}
        return units

    def rival_folds(self, session: Session, job: Job) -> dict[int, Folds]:
        """Of those that the pending evaluations race against, by id of the evaluation."""
        rivals = {row.rival_id for row in self._log.open if row.rival_id is not None}
        missing = rivals - self._folds.keys()
        found = EvaluationRepository(session).folds(missing) if missing else {}
        read = {one: _joined(folds, job) for one, folds in found.items()}
        self._remember(read)
        idle = [one for one in self._folds if one not in rivals]
        for one in idle[: max(0, len(idle) - MOST_RIVALS)]:
            del self._folds[one]
        self._weigh()
        return {one: self._folds.get(one, read.get(one)) for one in rivals}

    def keep(self, job: Job, endings: Iterable[Ending]) -> None:
        """Folds that a step has just written: the next ones race against them."""
        kept = {one.evaluation_id: one.folds for one in endings if one.folds is not None}
        self._remember({one: _joined(folds, job) for one, folds in kept.items()})

    def _remember(self, folds: Mapping[int, Folds]) -> None:
        self._folds |= {one: each for one, each in folds.items() if isinstance(each, np.ndarray)}

    def _weigh(self) -> None:
        units = (folds for unit in self._done.values() for folds in (unit.result or {})["states"])
        self.bytes = sum(folds.nbytes for folds in [*units, *self._folds.values()])


class StepMemory:
    """Of the jobs that were stepped last."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, JobMemory] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, job_id: str) -> JobMemory:
        with self._lock:
            found = self._jobs.setdefault(job_id, JobMemory(job_id))
            self._jobs.move_to_end(job_id)
            while len(self._jobs) > MOST_JOBS or self._others() > MOST_BYTES:
                self._jobs.popitem(last=False)
        return found

    def _others(self) -> int:
        return sum(job.bytes for job in [*self._jobs.values()][:-1])

    def forget(self, job_id: str) -> None:
        """A job that has ended takes no more steps."""
        with self._lock:
            self._jobs.pop(job_id, None)


def _with_joined_states(unit: Unit, job: Job) -> Unit:
    """An evaluation with its states in the form that is quickest to merge."""
    if unit.kind != UnitKind.EVALUATE or unit.result is None:
        return unit
    states = [_joined(folds, job) for folds in unit.result["states"]]
    return replace(unit, result={**unit.result, "states": states})


def _is_counts(unit: Unit) -> bool:
    """Whether a unit's states are small: what other metrics keep of an image may be much."""
    states = unit.result["states"] if unit.kind == UnitKind.EVALUATE and unit.result else []
    return bool(states) and all(isinstance(folds, np.ndarray) for folds in states)


def _joined(folds: Folds | metrics.Packed, job: Job) -> Folds:
    assert job.inspection is not None, "a job that evaluates was inspected"
    return metrics.joined([folds], job.inspection["metric"])
