"""The meter: how long a call takes, with everything needed to believe the number.

    warm up until stable -> sample in rounds, the reference in between, setting rounds aside in
    which other processes took the cores -> stop once the median's 99% interval is narrow enough ->
    if the reference drifted meanwhile, all over again

On CPU a sample is wall-clock time at a stated number of threads, on CUDA the time between two
events around the call (launch gaps included). The reference, mostly the dense model, is timed
between the runs throughout: it shows drift and foreign load, and `ratio` compares each sample with
the references next to it in time, so that a slow change of the machine's speed cancels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from sparsevit.latency.load import no_wait, waited_ns
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.memory import memory_errors
from sparsevit.latency.sampling import FEWEST_ROUNDS, Progress, Sampler
from sparsevit.latency.timers import Clock, Run, device_timer, thread_count

ATTEMPTS = 3
WARM_UP_SHARE = 0.2


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
    quiet_ms: float | None = None,
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
        quiet_ms=quiet_ms,
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
    quiet_ms: float | None = None,
    fewest: int = FEWEST_ROUNDS,
) -> list[Measurement]:
    """Times several calls in turn, one sample of each a round, so that all see the same machine.

    Each run is sampled until its median's 99% interval is narrower than `share` of the median, all
    within about `max_seconds` (`fewest` rounds are made in any case). The reference is timed once a
    round and more often in long rounds, for at most about half of the time.
    threads: torch's threads meanwhile; None leaves them. clock: nanoseconds, for the wall-clock
    samples and the time limits; with another one than the system's nothing is known of foreign load,
    and no round is set aside for it. progress(done, total) after each round; starts over when a
    disturbed measurement is repeated. quiet_ms: what the reference takes on this CPU when it is left
    alone, where that is known: a slower one is waited for, up to half of the time.
    Raises DeviceError for a device that is not here, DeviceOutOfMemory when a call does not fit.
    """
    if not runs or share <= 0 or max_seconds <= 0 or min_samples < 1:
        raise ValueError("measure at least one run, with positive limits.")
    timer = device_timer(device, clock)
    waited = waited_ns if clock is time.perf_counter_ns else no_wait
    with thread_count(threads), memory_errors():
        start = clock()
        for attempt in range(1, ATTEMPTS + 1):
            left = max_seconds - (clock() - start) / 1e9
            sampler = Sampler(
                timer,
                runs,
                reference,
                share,
                min_samples,
                waited,
                by_level=device.type == "cpu",
                quiet_ms=quiet_ms,
                fewest=fewest,
            )
            sampler.warm_up(clock() + int(left * WARM_UP_SHARE * 1e9), clock)
            sampler.sample(clock() + int(left * (1 - WARM_UP_SHARE) * 1e9), clock, progress)
            measurements = sampler.measurements(attempt)
            spent = (clock() - start) / 1e9
            # A repetition that has no time to be better than what it replaces is not begun.
            if not any(m.disturbed for m in measurements) or spent > max_seconds / 2:
                break
    return measurements
