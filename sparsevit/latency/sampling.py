"""One attempt at a measurement: rounds of samples, and what they say.

A round times every run that still needs samples once, the reference in between. What tells of other
work rather than of the model is set aside: rounds during which this process stood in line for a core,
and on a CPU the samples beside which the reference itself was slower than it is when left alone
(neighbours on the same host take caches and clock, and no counter of the system shows it). How fast
it is then may be known from before; where it does not come back to that speed for half of the time,
the speed it has now is taken for the device's, and stated. Only where too few samples are left do the
others count, and the numbers are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from sparsevit.latency.intervals import (
    Interval,
    drift,
    median_interval,
    noise_floor,
    sample_noise,
    widened,
)
from sparsevit.latency.load import LoadWatch
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.rounds import Round, Series, levels_beside
from sparsevit.latency.timers import Run, Timer

Progress = Callable[[int, int], None]
Nanoseconds = Callable[[], int]

DRIFT_LIMIT = 0.02
SLOWED = 0.04
"""A sample is set aside where the reference beside it is slower by this share than in its quietest
tenth. Twice the drift that is allowed: half of it is noise."""
NOISES = 2.0
"""Or by so many times what one sample of the reference differs from the next by chance, where that is
more: the median of four such samples is rarely further above its quietest tenth."""
QUIETEST = 0.1
RATIO_FELL, RATIO_ROSE = 0.05, 0.15
"""By so much at most the ratio to a reference that is slow (`SLOWED`) was off: a sparse forward
computes less for what it moves, and what neighbours take hits both unlike (decision 3)."""
PATIENCE = 0.5
"""This share of the time a reference that is slower than it is known to be is waited for."""
MOST_SET_ASIDE, MOST_AT_KNOWN_SPEED = 0.75, 0.9
"""Where a larger share is set aside, the samples that are left may be chance: a rare boost of the
device, or, where its quiet speed is known, not even the quietest tenth was near it."""
FEWEST_ROUNDS = 8
"""With fewer samples no interval covers the median at 99%."""
MOST_ROUNDS = 2000
CHECK_EVERY = 5
WARM_UP_CALLS = 30


class Sampler:
    """Times runs in turn, one attempt.

    waited: nanoseconds this process stood in line so far. by_level: whether samples beside a
    slow reference are set aside. Not on a GPU: what is fast there for a while is its boost clock.
    quiet_ms: the reference's latency on this device when it was left alone, where that is known.
    fewest: rounds that are made, and samples that a run needs, whatever the time.
    """

    def __init__(
        self,
        timer: Timer,
        runs: Sequence[Run],
        reference: Run | None,
        share: float,
        min_samples: int,
        waited: Nanoseconds,
        by_level: bool,
        quiet_ms: float | None = None,
        fewest: int = FEWEST_ROUNDS,
    ) -> None:
        self.timer, self.runs, self.reference = timer, runs, reference
        self.share, self.min_samples, self.waited = share, min_samples, waited
        self.fewest = fewest
        self.by_level = by_level and reference is not None
        self.quiet_ms = quiet_ms if self.by_level else None
        self.at_known_speed, self.slower = self.quiet_ms is not None, 0.0
        self.series = [Series() for _ in runs]
        self.reference_ms: list[float] = []
        self.rounds: list[Round] = []
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
        """Rounds over the runs that have not converged, each in an order of its own. Where too few
        samples count by the deadline, half as long again."""
        watch = LoadWatch()
        time_given = max(0, deadline - clock())
        last, patient_until = deadline + time_given // 2, deadline - int(time_given * PATIENCE)
        for number in range(MOST_ROUNDS):
            active = [i for i, s in enumerate(self.series) if not s.converged]
            self._round(np.random.default_rng(number).permutation(active).tolist())
            # Looked at every few rounds only: each look is another chance to stop on a lucky interval.
            extra = number + 1 - self.min_samples
            if extra >= 0 and extra % CHECK_EVERY == 0:
                self._sort_out()
                if clock() >= patient_until and self._take_speed():
                    self._sort_out()
            if progress is not None:
                progress(*self._progress())
            if all(s.converged for s in self.series):
                break
            if clock() >= deadline and number + 1 >= self.fewest:
                self._sort_out()
                if clock() >= last or not self._starved():
                    break
        self._finish(watch)
        if progress is not None:
            progress(*([len(self.runs) * self.min_samples] * 2))

    def measurements(self, attempt: int) -> list[Measurement]:
        """What the samples say, in the order of the runs."""
        return [self._measurement(series, attempt) for series in self.series]

    def _round(self, order: Sequence[int]) -> None:
        found = Round()
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

    def _time(self, found: Round, index: int | None) -> float:
        run = self.reference if index is None else self.runs[index]
        if run is None:
            return 0.0
        found.samples.append((index, self.timer(run)))
        return found.samples[-1][1]

    def _sort_out(self) -> None:
        """Gathers the samples that count, and says which runs have enough."""
        self._gather([one for one in self.rounds if not one.loud], self.by_level)
        for series in self.series:
            low, high = median_interval(series.ms) if series.ms else (0.0, np.inf)
            enough = len(series.ms) >= self.min_samples
            series.converged = enough and high - low <= self.share * float(np.median(series.ms))

    def _take_speed(self) -> bool:
        """What the reference is known to take is given up where too few samples came near it."""
        levels = levels_beside(
            np.array([ms for one in self.rounds for i, ms in one.samples if i is None])
        )
        if not self.at_known_speed or not levels or not self._starved():
            return False
        self.at_known_speed = np.quantile(levels, QUIETEST) <= self.quiet_ms * (1 + SLOWED)
        return not self.at_known_speed

    def _gather(self, rounds: Sequence[Round], by_level: bool) -> None:
        samples = [sample for one in rounds for sample in one.samples]
        reference = np.array([ms for index, ms in samples if index is None])
        levels = levels_beside(reference)
        limit = np.inf
        if by_level and len(levels):
            quietest = float(np.quantile(levels, QUIETEST))
            # What is known has a tolerance of its own: a hair above it is no slow state.
            known = self.quiet_ms * (1 + SLOWED) if self.at_known_speed else np.inf
            limit = min(quietest, known) * (1 + max(SLOWED, NOISES * sample_noise(reference)))
        self.series, self.reference_ms, seen = [Series() for _ in self.runs], [], 0
        for index, ms in samples:
            seen += index is None
            beside = levels[seen] if len(levels) else np.nan
            if beside > limit:
                continue
            if index is None:
                self.reference_ms.append(ms)
            else:
                self.series[index].ms.append(ms)
                self.series[index].beside.append(beside)
        kept = len(self.reference_ms) + sum(len(series.ms) for series in self.series)
        self.set_aside = 1 - kept / sum(len(one.samples) for one in self.rounds)

    def _starved(self) -> bool:
        return any(len(series.ms) < self.fewest for series in self.series)

    def _finish(self, watch: LoadWatch) -> None:
        if self.reference is not None:  # so that every sample has a reference on both sides
            self._time(self.rounds[-1], None)
        self._sort_out()
        if self._take_speed():
            self._sort_out()
        self.starved = self._starved()
        if self.starved:  # some number beats none; it is marked
            set_aside = self.set_aside
            self._gather(self.rounds, by_level=False)
            self.set_aside = set_aside
        if self.quiet_ms is not None:
            # Of what counts in the end: it may have come back, or be only about as fast as known.
            slower = float(np.median(self.reference_ms) / self.quiet_ms - 1)
            self.slower = max(0.0, round(slower, 4))
        ran = sum(one.ms for one in self.rounds)
        waited = sum(one.waited for one in self.rounds)
        self.load = watch.seen() | {"waited": round(waited / ran, 4)}

    def _progress(self) -> tuple[int, int]:
        """(samples taken, samples needed at least), as if each round so far counted."""
        taken = np.zeros(len(self.runs), int)
        for found in self.rounds:
            for index, _ in found.samples:
                if index is not None:
                    taken[index] += 1
        # A run that goes on beyond its fewest samples keeps one back until it is done.
        most = [self.min_samples - (not s.converged) for s in self.series]
        return int(np.minimum(taken, most).sum()), len(self.runs) * self.min_samples

    def _measurement(self, series: Series, attempt: int) -> Measurement:
        steady = self.reference_ms or series.ms
        floor, moved = noise_floor(steady), drift(steady)
        p50, p90, p99 = np.percentile(series.ms, (50, 90, 99)).tolist()
        most = MOST_SET_ASIDE if self.quiet_ms is None else MOST_AT_KNOWN_SPEED
        crowded = self.starved or self.set_aside > most
        return Measurement(
            p50=p50,
            p90=p90,
            p99=p99,
            interval=self._interval(series.ms, floor, self.slower, RATIO_ROSE),
            samples=len(series.ms),
            converged=series.converged,
            noise_floor=floor,
            drift=moved,
            set_aside=self.set_aside,
            slower=self.slower,
            disturbed=moved > DRIFT_LIMIT or (crowded and self.set_aside > 0),
            attempts=attempt,
            threads=torch.get_num_threads(),
            load=self.load,
            **self._against_reference(series, floor),
        )

    def _interval(
        self, values: ArrayLike, floor: float, slower: float, rose: float, fell: float = 0.0
    ) -> Interval:
        """Of the device at either of its speeds, where it is slower than it was known to be: it may be
        as fast again at any time. slower, rose, fell: by what shares the values are off then."""
        low, high = widened(median_interval(values), floor * float(np.median(values)))
        low /= 1 + slower
        return (low / (1 + rose), high * (1 + fell)) if self.slower > SLOWED else (low, high)

    def _against_reference(self, series: Series, floor: float) -> dict[str, Any]:
        if not self.reference_ms:
            return {}
        ratios = np.array(series.ms) / np.array(series.beside)
        ratio, reference_p50 = float(np.median(ratios)), float(np.median(self.reference_ms))
        return {
            "reference_p50": reference_p50,
            "reference_interval": self._interval(self.reference_ms, floor, self.slower, 0.0),
            "ratio": ratio,
            "ratio_interval": self._interval(ratios, floor, 0.0, RATIO_ROSE, RATIO_FELL),
        }
