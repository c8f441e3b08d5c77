"""The meter: how long a call takes, with everything needed to believe the number.

    warm up until stable -> sample in rounds, the reference in between -> stop once the median's
    99% interval is narrow enough -> if the reference drifted meanwhile, all over again

On CPU a sample is wall-clock time at a stated number of threads, on CUDA the time between two
events around the call (launch gaps included). The reference, mostly the dense model, is timed
between the runs throughout: it shows drift and foreign load, and `ratio` compares each sample with
the references next to it in time, so that a slow change of the machine's speed cancels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from sparsevit.latency.intervals import Interval, drift, median_interval, noise_floor, widened
from sparsevit.latency.timers import Clock, Run, Timer, device_timer, memory_errors, thread_count

Progress = Callable[[int, int], None]

ATTEMPTS = 3
DRIFT_LIMIT = 0.02
FEWEST_ROUNDS = 8  # with fewer samples no interval covers the median at 99%
MOST_ROUNDS = 2000
CHECK_EVERY = 5
WARM_UP_CALLS = 30
WARM_UP_SHARE = 0.2
NEIGHBOURS = 2


@dataclass(frozen=True)
class Measurement:
    """One latency. Milliseconds, except for the shares and ratios.

    p50, p90, p99: of the samples. interval: 99% confidence interval of the median, never narrower
    than the noise floor. converged: whether it became as narrow as was asked for in the time given.
    noise_floor: how far apart two measurements of one thing come out, as a share of its median.
    drift: how far the reference moved meanwhile, beyond chance, as a share. disturbed: it moved by
    more than 2% in every attempt: such a number must not win anything.
    reference_p50, reference_interval, ratio (run / reference, drift-corrected), ratio_interval:
    None without a reference. threads: torch's threads during the measurement.
    """

    p50: float
    p90: float
    p99: float
    interval: Interval
    samples: int
    converged: bool
    noise_floor: float
    drift: float
    disturbed: bool
    attempts: int
    threads: int
    reference_p50: float | None = None
    reference_interval: Interval | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None

    @property
    def corrected_ms(self) -> float:
        """The latency at the reference's median speed: comparable between runs timed together."""
        if self.ratio is None or self.reference_p50 is None:
            return self.p50
        return self.ratio * self.reference_p50

    def to_dict(self) -> dict[str, Any]:
        """JSON, intervals as [low, high]."""
        document = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in document.items()}


def measure(
    run: Run,
    *,
    reference: Run | None = None,
    device: torch.device,
    threads: int | None = None,
    share: float = 0.02,
    max_seconds: float = 30.0,
    min_samples: int = 20,
    clock: Clock = time.perf_counter_ns,
) -> Measurement:
    """Times one call; see `measure_many`."""
    return measure_many(
        [run],
        reference,
        device=device,
        threads=threads,
        share=share,
        max_seconds=max_seconds,
        min_samples=min_samples,
        clock=clock,
    )[0]


def measure_many(
    runs: Sequence[Run],
    reference: Run | None = None,
    *,
    device: torch.device,
    threads: int | None = None,
    share: float = 0.02,
    max_seconds: float = 30.0,
    min_samples: int = 20,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> list[Measurement]:
    """Times several calls in turn, one sample of each a round, so that all see the same machine.

    Each run is sampled until its median's 99% interval is narrower than `share` of the median, all
    within about `max_seconds` (a few rounds are always made). The reference is timed once a round
    and more often in long rounds, for at most about half of the time.
    threads: torch's threads meanwhile; None leaves them. clock: nanoseconds, for the wall-clock
    samples and the time limits. progress(done, total) after each round; starts over when a
    disturbed measurement is repeated.
    Raises DeviceError for a device that is not here, DeviceOutOfMemory when a call does not fit.
    """
    if not runs or share <= 0 or max_seconds <= 0 or min_samples < 1:
        raise ValueError("measure at least one run, with positive limits.")
    timer = device_timer(device, clock)
    with thread_count(threads), memory_errors():
        start = clock()
        for attempt in range(1, ATTEMPTS + 1):
            left = max_seconds - (clock() - start) / 1e9
            session = _Session(timer, runs, reference, share, min_samples)
            session.warm_up(clock() + int(left * WARM_UP_SHARE * 1e9), clock)
            session.sample(clock() + int(left * (1 - WARM_UP_SHARE) * 1e9), clock, progress)
            measurements = session.measurements(attempt)
            spent = (clock() - start) / 1e9
            # A repetition that has no time to be better than what it replaces is not begun.
            if not any(m.disturbed for m in measurements) or spent > max_seconds / 2:
                break
    return measurements


@dataclass
class _Series:
    """Samples of one run, in ms, and how many reference samples had been taken before each."""

    ms: list[float] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    converged: bool = False


class _Session:
    """One attempt at a measurement."""

    def __init__(
        self,
        timer: Timer,
        runs: Sequence[Run],
        reference: Run | None,
        share: float,
        min_samples: int,
    ) -> None:
        self.timer, self.runs, self.reference = timer, runs, reference
        self.share, self.min_samples = share, min_samples
        self.series = [_Series() for _ in runs]
        self.reference_ms: list[float] = []

    def warm_up(self, deadline: int, clock: Clock) -> None:
        """Calls each run until its last three calls take as long as the three before; at least
        once, at most 30 times."""
        for run in [self.reference, *self.runs] if self.reference else self.runs:
            ms: list[float] = []
            while len(ms) < WARM_UP_CALLS:
                ms.append(self.timer(run))
                stable = len(ms) >= 6 and abs(np.median(ms[-3:]) / np.median(ms[-6:-3]) - 1)
                if clock() >= deadline or (len(ms) >= 6 and stable <= self.share):
                    break

    def sample(self, deadline: int, clock: Clock, progress: Progress | None) -> None:
        """Rounds over the runs that have not converged, each in an order of its own."""
        total = len(self.runs) * self.min_samples
        for round_number in range(MOST_ROUNDS):
            active = [i for i, s in enumerate(self.series) if not s.converged]
            self._round(np.random.default_rng(round_number).permutation(active).tolist())
            if progress is not None:
                progress(sum(self._progress_of(s) for s in self.series), total)
            late = clock() >= deadline and round_number + 1 >= FEWEST_ROUNDS
            if late or all(s.converged for s in self.series):
                break
        self._time_reference()
        if progress is not None:
            progress(total, total)

    def measurements(self, attempt: int) -> list[Measurement]:
        """What the samples say, in the order of the runs."""
        return [self._measurement(series, attempt) for series in self.series]

    def _round(self, order: Sequence[int]) -> None:
        self._time_reference()
        since = 0.0
        for index in order:
            if self.reference_ms and since >= self.reference_ms[-1]:
                self._time_reference()
                since = 0.0
            series = self.series[index]
            series.ms.append(self.timer(self.runs[index]))
            series.after.append(len(self.reference_ms))
            since += series.ms[-1]
            series.converged = self._has_converged(series.ms)

    def _time_reference(self) -> None:
        if self.reference is not None:
            self.reference_ms.append(self.timer(self.reference))

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
        numbers: dict[str, Any] = {}
        if self.reference_ms:
            ratios = self._ratios(series)
            ratio, reference_p50 = float(np.median(ratios)), float(np.median(self.reference_ms))
            numbers = {
                "reference_p50": reference_p50,
                "reference_interval": widened(
                    median_interval(self.reference_ms), floor * reference_p50
                ),
                "ratio": ratio,
                "ratio_interval": widened(median_interval(ratios), floor * ratio),
            }
        return Measurement(
            p50=p50,
            p90=p90,
            p99=p99,
            interval=widened(median_interval(series.ms), floor * p50),
            samples=len(series.ms),
            converged=series.converged,
            noise_floor=floor,
            drift=moved,
            disturbed=moved > DRIFT_LIMIT,
            attempts=attempt,
            threads=torch.get_num_threads(),
            **numbers,
        )

    def _ratios(self, series: _Series) -> np.ndarray:
        """Each sample over the median of the reference samples around it (two on either side)."""
        reference = np.array(self.reference_ms)
        around = [
            np.median(reference[max(0, i - NEIGHBOURS) : i + NEIGHBOURS]) for i in series.after
        ]
        return np.array(series.ms) / np.array(around)
