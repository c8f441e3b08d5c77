"""One attempt at a measurement: rounds of samples, and what they say.

A round times every run that still needs samples once, the reference in between. A round during
which this process stood in line for a core is set aside: it tells of other processes, not of the
model. Only where too few quiet rounds are left do the others count, and the numbers are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sparsevit.latency.intervals import drift, median_interval, noise_floor, widened
from sparsevit.latency.load import LoadWatch
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.timers import Run, Timer

Progress = Callable[[int, int], None]
Nanoseconds = Callable[[], int]

DRIFT_LIMIT = 0.02
MOST_WAITED = 0.02
"""A round that stood in line for a larger share of its time is set aside."""
MOST_SET_ASIDE = 0.5
FEWEST_ROUNDS = 8  # with fewer samples no interval covers the median at 99%
MOST_ROUNDS = 2000
CHECK_EVERY = 5
WARM_UP_CALLS = 30
NEIGHBOURS = 2


@dataclass
class _Series:
    """Samples of one run, in ms, and how many reference samples had been taken before each."""

    ms: list[float] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    converged: bool = False


@dataclass
class _Round:
    """The samples of one round in the order they were taken: (run or None for the reference, ms)."""

    samples: list[tuple[int | None, float]] = field(default_factory=list)
    waited: float = 0.0

    @property
    def ms(self) -> float:
        return sum(ms for _, ms in self.samples)

    @property
    def loud(self) -> bool:
        return self.waited > MOST_WAITED * self.ms


class Sampler:
    """Times runs in turn, one attempt. waited: nanoseconds this process stood in line so far."""

    def __init__(
        self,
        timer: Timer,
        runs: Sequence[Run],
        reference: Run | None,
        share: float,
        min_samples: int,
        waited: Nanoseconds,
    ) -> None:
        self.timer, self.runs, self.reference = timer, runs, reference
        self.share, self.min_samples, self.waited = share, min_samples, waited
        self.series = [_Series() for _ in runs]
        self.reference_ms: list[float] = []
        self.rounds: list[_Round] = []
        self.load: dict[str, Any] = {}
        self.set_aside, self.starved = 0.0, False

    def warm_up(self, deadline: int, clock: Nanoseconds) -> None:
        """Calls each run until its last three calls take as long as the three before; at least
        once, at most 30 times."""
        for run in [self.reference, *self.runs] if self.reference else self.runs:
            ms: list[float] = []
            while len(ms) < WARM_UP_CALLS:
                ms.append(self.timer(run))
                stable = len(ms) >= 6 and abs(np.median(ms[-3:]) / np.median(ms[-6:-3]) - 1)
                if clock() >= deadline or (len(ms) >= 6 and stable <= self.share):
                    break

    def sample(self, deadline: int, clock: Nanoseconds, progress: Progress | None) -> None:
        """Rounds over the runs that have not converged, each in an order of its own."""
        watch = LoadWatch()
        total = len(self.runs) * self.min_samples
        for number in range(MOST_ROUNDS):
            active = [i for i, s in enumerate(self.series) if not s.converged]
            self._round(np.random.default_rng(number).permutation(active).tolist())
            if progress is not None:
                progress(sum(self._progress_of(s) for s in self.series), total)
            late = clock() >= deadline and number + 1 >= FEWEST_ROUNDS
            if late or all(s.converged for s in self.series):
                break
        self._take_loud_rounds()
        self._finish(watch)
        if progress is not None:
            progress(total, total)

    def measurements(self, attempt: int) -> list[Measurement]:
        """What the samples say, in the order of the runs."""
        return [self._measurement(series, attempt) for series in self.series]

    def _round(self, order: Sequence[int]) -> None:
        found = _Round()
        start = self.waited()
        since = 0.0
        self._time(found, None)
        for index in order:
            if self.reference is not None and since >= found.samples[0][1]:
                self._time(found, None)
                since = 0.0
            since += self._time(found, index)
        found.waited = (self.waited() - start) / 1e6
        self.rounds.append(found)
        if not found.loud:
            self._keep(found)

    def _time(self, found: _Round, index: int | None) -> float:
        run = self.reference if index is None else self.runs[index]
        if run is None:
            return 0.0
        found.samples.append((index, self.timer(run)))
        return found.samples[-1][1]

    def _keep(self, found: _Round) -> None:
        for index, ms in found.samples:
            if index is None:
                self.reference_ms.append(ms)
                continue
            series = self.series[index]
            series.ms.append(ms)
            series.after.append(len(self.reference_ms))
            series.converged = self._has_converged(series.ms)

    def _take_loud_rounds(self) -> None:
        """Too few quiet rounds: start again with all of them, in order. Some number beats none."""
        self.starved = any(len(s.ms) < FEWEST_ROUNDS for s in self.series)
        if not self.starved:
            return
        self.series, self.reference_ms = [_Series() for _ in self.runs], []
        for found in self.rounds:
            self._keep(found)

    def _finish(self, watch: LoadWatch) -> None:
        """A last reference sample, so that every sample has one on both sides."""
        if self.reference is not None:
            self.reference_ms.append(self.timer(self.reference))
        ran = sum(one.ms for one in self.rounds)
        waited = sum(one.waited for one in self.rounds)
        self.load = watch.seen() | {"waited": round(waited / ran, 4)}
        self.set_aside = sum(one.loud for one in self.rounds) / len(self.rounds)

    def _has_converged(self, ms: list[float]) -> bool:
        # Looked at every few samples only: each look is another chance to stop on a lucky interval.
        extra = len(ms) - self.min_samples
        if extra < 0 or extra % CHECK_EVERY:
            return False
        low, high = median_interval(ms)
        return high - low <= self.share * float(np.median(ms))

    def _progress_of(self, series: _Series) -> int:
        # A run that goes on beyond its fewest samples keeps one back until it is done.
        most = self.min_samples - (not series.converged)
        return min(len(series.ms), most)

    def _measurement(self, series: _Series, attempt: int) -> Measurement:
        steady = self.reference_ms or series.ms
        floor, moved = noise_floor(steady), drift(steady)
        p50, p90, p99 = np.percentile(series.ms, (50, 90, 99)).tolist()
        crowded = self.starved or self.set_aside > MOST_SET_ASIDE
        return Measurement(
            p50=p50,
            p90=p90,
            p99=p99,
            interval=widened(median_interval(series.ms), floor * p50),
            samples=len(series.ms),
            converged=series.converged,
            noise_floor=floor,
            drift=moved,
            set_aside=self.set_aside,
            disturbed=moved > DRIFT_LIMIT or (crowded and self.set_aside > 0),
            attempts=attempt,
            threads=torch.get_num_threads(),
            load=self.load,
            **self._against_reference(series, floor),
        )

    def _against_reference(self, series: _Series, floor: float) -> dict[str, Any]:
        if not self.reference_ms:
            return {}
        ratios = self._ratios(series)
        ratio, reference_p50 = float(np.median(ratios)), float(np.median(self.reference_ms))
        return {
            "reference_p50": reference_p50,
            "reference_interval": widened(
                median_interval(self.reference_ms), floor * reference_p50
            ),
            "ratio": ratio,
            "ratio_interval": widened(median_interval(ratios), floor * ratio),
        }

    def _ratios(self, series: _Series) -> np.ndarray:
        """Each sample over the median of the reference samples around it (two on either side)."""
        reference = np.array(self.reference_ms)
        around = [
            np.median(reference[max(0, i - NEIGHBOURS) : i + NEIGHBOURS]) for i in series.after
        ]
        return np.array(series.ms) / np.array(around)
